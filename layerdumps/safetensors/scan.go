package safetensors

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The longest strings that a header may hold, in bytes. The format has no limit but
// the header's own; these keep an error that names a tensor, and the memory that one
// token takes, in proportion.
const (
	maxName  = 1 << 16
	maxValue = 16 << 20
)

// maxDepth is how deep values of unknown keys may be nested.
const maxDepth = 1000

// scanner reads the JSON of a header as it comes. A header of 100 MB may list more
// than a million tensors, which encoding/json, by way of a value in memory for each
// token, takes ten times as long for. What is hard about strings is left to it.
type scanner struct {
	r   *bufio.Reader
	buf []byte // the last string
	num []byte // the last number
}

// syntax is an error of the JSON itself.
func syntax(format string, args ...any) error {
	return fmt.Errorf("the header is not valid JSON: "+format, args...)
}

// next returns the next byte that is not white space.
func (s *scanner) next() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		switch {
		case err == io.EOF:
			return 0, syntax("%w", io.ErrUnexpectedEOF)
		case err != nil:
			return 0, err
		case c != ' ' && c != '\n' && c != '\t' && c != '\r':
			return c, nil
		}
	}
}

// peek is next without taking the byte.
func (s *scanner) peek() (byte, error) {
	c, err := s.next()
	if err == nil {
		err = s.r.UnreadByte()
	}
	return c, err
}

// end reports anything but white space.
func (s *scanner) end() error {
	for {
		switch c, err := s.r.ReadByte(); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case c != ' ' && c != '\n' && c != '\t' && c != '\r':
			return errors.New("the header has more than one JSON value")
		}
	}
}

// expect takes the byte c.
func (s *scanner) expect(want byte) error {
	c, err := s.next()
	if err == nil && c != want {
		err = syntax("%q where %q should be", c, want)
	}
	return err
}

// list walks over what is between two brackets, of which the first was taken: item is
// called in front of every item.
func (s *scanner) list(closing byte, item func() error) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c == closing {
		_, err = s.next()
		return err
	}
	for {
		if err := item(); err != nil {
			return err
		}
		c, err := s.next()
		switch {
		case err != nil:
			return err
		case c == closing:
			return nil
		case c != ',':
			return syntax("%q where ',' or %q should be", c, closing)
		}
	}
}

// object walks over an object; value must take the key's value. key is only valid
// until then.
func (s *scanner) object(value func(key []byte) error) error {
	c, err := s.peek()
	switch {
	case err != nil:
		return err
	case c != '{':
		return errors.New("not a JSON object")
	}
	s.next()
	return s.list('}', func() error {
		if err := s.expect('"'); err != nil {
			return err
		}
		key, err := s.string(maxName)
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return value(key)
	})
}

// string reads a string of up to limit bytes whose opening quote was taken. The
// result is only valid until the next call.
func (s *scanner) string(limit int) ([]byte, error) {
	// Quotes for the decoder, should there be an escape.
	s.buf = append(s.buf[:0], '"')
	escaped := false
	for {
		c, err := s.r.ReadByte()
		switch {
		case err == io.EOF:
			return nil, syntax("%w", io.ErrUnexpectedEOF)
		case err != nil:
			return nil, err
		case c == '"':
			text := s.buf[1:]
			if !utf8.Valid(text) {
				return nil, errors.New("the header is not UTF-8")
			}
			if !escaped {
				return text, nil
			}
			var plain string
			if err := json.Unmarshal(append(s.buf, '"'), &plain); err != nil {
				return nil, syntax("%w", err)
			}
			return []byte(plain), nil
		case c < ' ':
			return nil, syntax("the control character %q in a string", c)
		case len(s.buf) > limit:
			return nil, fmt.Errorf("the header has a name or a text of more than %d bytes: %.40q and more", limit, s.buf[1:])
		case c == '\\':
			escaped = true
			s.buf = append(s.buf, c)
			// Whatever is escaped does not end the string.
			if c, err = s.r.ReadByte(); err == io.EOF {
				return nil, syntax("%w", io.ErrUnexpectedEOF)
			} else if err != nil {
				return nil, err
			}
		}
		s.buf = append(s.buf, c)
	}
}

// text reads a value that must be a string.
func (s *scanner) text(limit int) ([]byte, error) {
	if err := s.mustBe('"', "a string"); err != nil {
		return nil, err
	}
	s.next()
	return s.string(limit)
}

// mustBe reports a value that does not begin as what is wanted does.
func (s *scanner) mustBe(want byte, what string) error {
	c, err := s.peek()
	if err != nil || c == want {
		return err
	}
	kind, err := s.skip(0)
	switch {
	case err != nil:
		return err
	case kind == "null":
		return fmt.Errorf("the value is null, not %s", what)
	}
	return fmt.Errorf("the value is a JSON %s, which does not fit", kind)
}

// sizes appends an array of integers that are not negative to dst.
func (s *scanner) sizes(dst []int) ([]int, error) {
	if err := s.mustBe('[', "an array"); err != nil {
		return nil, err
	}
	s.next()
	err := s.list(']', func() error {
		c, err := s.peek()
		switch {
		case err != nil:
			return err
		case len(dst) == maxDims:
			return fmt.Errorf("more than %d numbers", maxDims)
		case c != '-' && (c < '0' || c > '9'):
			kind, err := s.skip(0)
			switch {
			case err != nil:
				return err
			case kind == "null":
				return errors.New("holds a null")
			}
			return fmt.Errorf("the value is a JSON %s, which does not fit", kind)
		}
		text, err := s.number()
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(text))
		switch {
		case err != nil:
			return fmt.Errorf("the value is a JSON number %.40s, which does not fit", text)
		case n < 0:
			return fmt.Errorf("holds the negative number %d", n)
		}
		dst = append(dst, n)
		return nil
	})
	return dst, err
}

// number reads a number's text, as the grammar of JSON has it. The result is only
// valid until the next call.
func (s *scanner) number() ([]byte, error) {
	const longest = 1000
	s.num = s.num[:0]
	for {
		c, err := s.r.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if (c < '0' || c > '9') && strings.IndexByte("+-.eE", c) < 0 {
			s.r.UnreadByte()
			break
		}
		if s.num = append(s.num, c); len(s.num) > longest {
			return nil, syntax("a number of more than %d digits", longest)
		}
	}
	if !json.Valid(s.num) {
		return nil, syntax("the number %.40q", s.num)
	}
	return s.num, nil
}

// skip takes a value of any kind, depth levels down, and says what it is.
func (s *scanner) skip(depth int) (kind string, err error) {
	if depth > maxDepth {
		return "", syntax("values nested more than %d deep", maxDepth)
	}
	c, err := s.peek()
	if err != nil {
		return "", err
	}
	switch {
	case c == '{':
		return "object", s.object(func([]byte) error {
			_, err := s.skip(depth + 1)
			return err
		})
	case c == '[':
		s.next()
		return "array", s.list(']', func() error {
			_, err := s.skip(depth + 1)
			return err
		})
	case c == '"':
		s.next()
		_, err := s.string(maxValue)
		return "string", err
	case c == '-' || '0' <= c && c <= '9':
		text, err := s.number()
		return fmt.Sprintf("number %.40s", text), err
	}
	for _, word := range []string{"true", "false", "null"} {
		if c != word[0] {
			continue
		}
		got, err := s.r.Peek(len(word))
		if err != nil && err != io.EOF {
			return "", err
		}
		if string(got) != word {
			break
		}
		s.r.Discard(len(word))
		if word == "null" {
			return word, nil
		}
		return "bool", nil
	}
	return "", syntax("%q where a value should be", c)
}
