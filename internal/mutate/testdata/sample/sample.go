// Package sample has facts that its test holds and facts that it does not.
package sample

// Colour is one of three.
type Colour int

// The colours.
const (
	Red Colour = iota
	Green
	Blue
)

var held = map[string]Colour{"grass": Green}

var loose = []Colour{Blue}

var table = [...]int{
	1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33,
}

// Limit cuts x at 10.
func Limit(x int) int {
	if x > 10 {
		return 10
	}
	return x
}

// Half is half of x.
func Half(x float64) float64 { return x * 0.25 * 2 }
