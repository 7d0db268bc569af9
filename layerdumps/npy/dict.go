package npy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// header is what a .npy header's dict says.
type header struct {
	descr   string
	fortran bool
	shape   []int
}

// parseDict reads the header's text: a Python dict literal with exactly the
// keys descr, fortran_order and shape, followed by white space. It knows only
// the literals that NumPy writes there, not Python.
func parseDict(text string) (header, error) {
	var h header
	s := scanner{text: text}
	if err := s.expect('{'); err != nil {
		return h, err
	}
	seen := make(map[string]bool)
	for !s.accept('}') {
		if len(seen) > 0 {
			if err := s.expect(','); err != nil {
				return h, err
			}
			if s.accept('}') { // after a trailing comma
				break
			}
		}
		key, err := s.str()
		if err != nil {
			return h, err
		}
		if seen[key] {
			return h, fmt.Errorf("the key %q occurs twice", key)
		}
		seen[key] = true
		if err := s.expect(':'); err != nil {
			return h, err
		}
		switch key {
		case "descr":
			if s.peek() == '[' || s.peek() == '(' {
				return h, errors.New("structured arrays are not supported")
			}
			h.descr, err = s.str()
		case "fortran_order":
			h.fortran, err = s.boolean()
		case "shape":
			h.shape, err = s.tuple()
		default:
			return h, fmt.Errorf("unexpected key %q", key)
		}
		if err != nil {
			return h, fmt.Errorf("%s: %w", key, err)
		}
	}
	for _, key := range []string{"descr", "fortran_order", "shape"} {
		if !seen[key] {
			return h, fmt.Errorf("the key %q is missing", key)
		}
	}
	if s.skip(); s.pos != len(s.text) {
		return h, s.unexpected("the end")
	}
	return h, nil
}

// scanner walks over a Python literal. Its methods skip white space first.
type scanner struct {
	text string
	pos  int
}

func (s *scanner) skip() {
	for s.pos < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.pos]) >= 0 {
		s.pos++
	}
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	s.skip()
	if s.pos == len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

func (s *scanner) accept(c byte) bool {
	s.skip()
	if s.pos == len(s.text) || s.text[s.pos] != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) expect(c byte) error {
	if !s.accept(c) {
		return s.unexpected(strconv.QuoteRune(rune(c)))
	}
	return nil
}

func (s *scanner) unexpected(want string) error {
	if s.skip(); s.pos == len(s.text) {
		return fmt.Errorf("it ends where %s should be", want)
	}
	return fmt.Errorf("%q at byte %d, want %s", s.text[s.pos], s.pos, want)
}

// str reads a string in either kind of quotes. NumPy writes no escapes here.
func (s *scanner) str() (string, error) {
	quote := s.peek()
	if quote != '\'' && quote != '"' {
		return "", s.unexpected("a string")
	}
	start := s.pos + 1
	n := strings.IndexByte(s.text[start:], quote)
	if n < 0 {
		return "", errors.New("a string does not end")
	}
	value := s.text[start : start+n]
	if strings.ContainsAny(value, "\\\n") {
		return "", fmt.Errorf("a string with an escape or a line break: %q", value)
	}
	s.pos = start + n + 1
	return value, nil
}

func (s *scanner) boolean() (bool, error) {
	s.skip()
	for _, word := range []struct {
		text  string
		value bool
	}{{"True", true}, {"False", false}} {
		if strings.HasPrefix(s.text[s.pos:], word.text) {
			s.pos += len(word.text)
			return word.value, nil
		}
	}
	return false, s.unexpected("True or False")
}

// tuple reads a tuple of sizes. As in Python, a single one needs its comma.
func (s *scanner) tuple() ([]int, error) {
	if err := s.expect('('); err != nil {
		return nil, err
	}
	sizes := []int{}
	comma := true
	for !s.accept(')') {
		if !comma {
			return nil, s.unexpected("',' or ')'")
		}
		n, err := s.size()
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, n)
		comma = s.accept(',')
	}
	if len(sizes) == 1 && !comma {
		return nil, errors.New("not a tuple: one size in parentheses without a comma")
	}
	return sizes, nil
}

// size reads a decimal integer that is not negative. Python 2 may have written
// an L behind it.
func (s *scanner) size() (int, error) {
	if s.peek() == '-' {
		return 0, errors.New("a negative size")
	}
	start := s.pos
	for s.pos < len(s.text) && '0' <= s.text[s.pos] && s.text[s.pos] <= '9' {
		s.pos++
	}
	if s.pos == start {
		return 0, s.unexpected("a size")
	}
	digits := s.text[start:s.pos]
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("the size %.20s overflows", digits)
	}
	if s.pos < len(s.text) && s.text[s.pos] == 'L' {
		s.pos++
	}
	return n, nil
}
