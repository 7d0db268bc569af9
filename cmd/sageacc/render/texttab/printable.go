package texttab

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hidden reports a character that does not show as itself: a control character, which
// a terminal may obey, and one that changes how others look or where they stand, such
// as those that turn the direction of text. Those that join letters, or keep them
// apart, are part of how some scripts are written.
func hidden(r rune) bool {
	const nonJoiner, joiner = '\u200c', '\u200d'
	return r != nonJoiner && r != joiner && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Printable replaces hidden characters, which names in files may hold, by Go escapes,
// and bytes that are not UTF-8 by U+FFFD.
func Printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			b.WriteString(escapeGo(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func escapeGo(r rune) string {
	q := strconv.QuoteRuneToASCII(r)
	return q[1 : len(q)-1]
}

func escapeJSON(r rune) string {
	if a, b := utf16.EncodeRune(r); a != unicode.ReplacementChar {
		return fmt.Sprintf(`\u%04x\u%04x`, a, b)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// Cut is Printable for a line of a message: of one longer than most characters it
// keeps the beginning and the end.
func Cut(s string, most int) string {
	const note = " [...] "
	// What is far beyond the limit is not worth the time of looking at it.
	if bytes := 8 * most; len(s) > bytes {
		s = s[:bytes/2] + note + s[len(s)-bytes/2:]
	}
	s = Printable(strings.ToValidUTF8(s, "\ufffd"))
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	r := []rune(s)
	head := (most - len(note)) * 2 / 3
	tail := most - len(note) - head
	return string(r[:head]) + note + string(r[len(r)-tail:])
}

// filter passes on text whose hidden characters it has replaced, all but line breaks.
type filter struct {
	w      io.Writer
	escape func(rune) string
	// rest is the beginning of a character whose end has not come.
	rest []byte
}

// Safe returns a writer of text to w in which hidden characters but line breaks become
// Go escapes. It is the last line: where text is put together, a name must not bring
// line breaks either.
func Safe(w io.Writer) io.Writer { return &filter{w: w, escape: escapeGo} }

// SafeJSON is Safe for JSON, which stays the same value.
func SafeJSON(w io.Writer) io.Writer { return &filter{w: w, escape: escapeJSON} }

// Write implements io.Writer.
func (f *filter) Write(p []byte) (int, error) {
	var out []byte
	in := p
	if len(f.rest) > 0 {
		in = append(f.rest, p...)
		f.rest = nil
	}
	start := 0 // of what is passed on as it is
	for i := 0; i < len(in); {
		if c := in[i]; c == '\n' || ' ' <= c && c < 0x7f {
			i++
			continue
		}
		if !utf8.FullRune(in[i:]) {
			f.rest = append([]byte(nil), in[i:]...)
			in = in[:i]
			break
		}
		r, n := utf8.DecodeRune(in[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(append(out, in[start:i]...), "\ufffd"...)
			start = i + n
		case hidden(r):
			out = append(append(out, in[start:i]...), f.escape(r)...)
			start = i + n
		}
		i += n
	}
	if start > 0 {
		in = append(out, in[start:]...)
	}
	if _, err := f.w.Write(in); err != nil {
		return 0, err
	}
	return len(p), nil
}

// lines passes on lines that are cut.
type lines struct {
	w    io.Writer
	most int
}

// Lines returns a writer of messages to w, each of them written at once: every line is
// printable and not much longer than most characters.
func Lines(w io.Writer, most int) io.Writer { return &lines{w, most} }

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	all := strings.Split(string(p), "\n")
	for i := range all {
		all[i] = Cut(all[i], l.most)
	}
	if _, err := io.WriteString(l.w, strings.Join(all, "\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}
