package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// cosine writes a cosine similarity with the digits that set kernels apart.
func cosine(x jsonfloat.Float) string {
	if x == 1 {
		return "1"
	}
	return strconv.FormatFloat(float64(x), 'f', 6, 64)
}

// number writes a figure with four digits.
func number(x jsonfloat.Float) string { return digits(float64(x), 4) }

// clean makes an untrusted name fit to be shown on a line: control and formatting
// characters, which might hide or reverse what follows, become Go escapes.
func clean(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if r != ' ' && !unicode.IsGraphic(r) || unicode.Is(unicode.Bidi_Control, r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// sentence makes a sentence of untrusted words; what ends with a colon is continued on
// the next line.
func sentence(s string) string {
	s = clean(s)
	first, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	end := "."
	if strings.HasSuffix(s, ":") {
		end = ""
	}
	return string(unicode.ToUpper(first)) + s[n:] + end
}

// plural writes a count of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// digits writes a number with n significant digits, in fixed notation where that is
// not long.
func digits(x float64, n int) string {
	if math.IsNaN(x) || math.IsInf(x, 0) || x == 0 {
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	s := strconv.FormatFloat(x, 'e', n-1, 64)
	mantissa, exp, _ := strings.Cut(s, "e")
	e, err := strconv.Atoi(exp)
	if err != nil || e < -4 || e > 6 {
		return mantissa + "e" + strconv.Itoa(e)
	}
	return strconv.FormatFloat(x, 'f', max(0, n-1-e), 64)
}

// percent writes a fraction with the digits that it takes to see it.
func percent(x float64) string {
	p := 100 * x
	switch a := math.Abs(p); {
	case math.IsNaN(p) || math.IsInf(p, 0):
		return strconv.FormatFloat(p, 'g', -1, 64)
	case a == 0:
		return "0%"
	case a < 0.1:
		return digits(p, 2) + "%"
	}
	return strconv.FormatFloat(p, 'f', 1, 64) + "%"
}

// ratio divides counts.
func ratio(n, of int64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// shellLine writes arguments so that a POSIX shell reads them back.
func shellLine(args []string) string {
	var out []string
	for _, a := range args {
		plain := a != "" && !strings.ContainsFunc(a, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./,=+:@%", r))
		})
		if !plain {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, clean(a))
	}
	return strings.Join(out, " ")
}
