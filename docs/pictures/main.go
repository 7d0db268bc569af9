// Command pictures draws the pictures of docs/concepts.md, from what the emulator
// computes wherever they show numbers:
//
//	go run ./docs/pictures
package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	if err := write("docs/pictures"); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

// write draws all pictures into a folder.
func write(dir string) error {
	for name, draw := range pictures {
		s, err := draw()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(s), 0o644); err != nil {
			return err
		}
	}
	return nil
}

var pictures = map[string]func() (string, error){
	"rows":        rows,
	"fp22":        fp22,
	"levels":      levels,
	"granularity": granularity,
	"smoothing":   smoothing,
	"attribution": attribution,
}

// Colours on white, so that the pictures look the same on light and dark pages.
const (
	ink   = "#1c1d21"
	muted = "#5b5e66"
	line  = "#c9c9c5"
	blue  = "#0b62b5"
	red   = "#c2410c"
	green = "#0f7a5f"
	pale  = "#eef2f6"
)

// canvas is a picture in the making.
type canvas struct {
	b             strings.Builder
	width, height float64
	title         string
}

func newCanvas(width, height float64, title string) *canvas {
	return &canvas{width: width, height: height, title: title}
}

func (c *canvas) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-label="%s" font-family="system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif" font-size="13">`+"\n",
		num(c.width), num(c.height), num(c.width), num(c.height), html.EscapeString(c.title))
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(c.title))
	fmt.Fprintf(&b, `<rect width="%s" height="%s" rx="8" fill="#ffffff" stroke="%s"/>`+"\n", num(c.width), num(c.height), line)
	b.WriteString(c.b.String())
	b.WriteString("</svg>\n")
	return b.String()
}

// num writes a coordinate.
func num(x float64) string {
	s := strconv.FormatFloat(x, 'f', 2, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// text writes words; anchor is start, middle or end.
func (c *canvas) text(x, y float64, anchor, fill, s string, more ...string) {
	fmt.Fprintf(&c.b, `<text x="%s" y="%s" text-anchor="%s" fill="%s"%s>%s</text>`+"\n", num(x), num(y), anchor, fill, strings.Join(append([]string{""}, more...), " "), html.EscapeString(s))
}

func (c *canvas) rect(x, y, w, h float64, fill, stroke string, more ...string) {
	fmt.Fprintf(&c.b, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s" stroke="%s"%s/>`+"\n", num(x), num(y), num(w), num(h), fill, stroke, strings.Join(append([]string{""}, more...), " "))
}

func (c *canvas) line(x0, y0, x1, y1 float64, stroke string, more ...string) {
	fmt.Fprintf(&c.b, `<path d="M%s %sL%s %s" stroke="%s" fill="none"%s/>`+"\n", num(x0), num(y0), num(x1), num(y1), stroke, strings.Join(append([]string{""}, more...), " "))
}

func (c *canvas) dot(x, y, r float64, fill string, more ...string) {
	fmt.Fprintf(&c.b, `<circle cx="%s" cy="%s" r="%s" fill="%s"%s/>`+"\n", num(x), num(y), num(r), fill, strings.Join(append([]string{""}, more...), " "))
}

// path joins points.
func (c *canvas) path(points [][2]float64, stroke string, more ...string) {
	var d strings.Builder
	for i, p := range points {
		d.WriteString(map[bool]string{true: "M", false: "L"}[i == 0])
		d.WriteString(num(p[0]) + " " + num(p[1]))
	}
	fmt.Fprintf(&c.b, `<path d="%s" stroke="%s" fill="none" stroke-linejoin="round"%s/>`+"\n", d.String(), stroke, strings.Join(append([]string{""}, more...), " "))
}

const (
	bold  = `font-weight="600"`
	small = `font-size="11.5"`
	mono  = `font-family="ui-monospace, 'DejaVu Sans Mono', 'Liberation Mono', monospace"`
)
