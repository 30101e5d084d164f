package boot

import (
	"fmt"
	"strings"
)

// maxDepth bounds the nesting of a configuration file.
const maxDepth = 64

// kind is the form of a configuration value.
type kind int

const (
	scalar kind = iota
	array
	block
)

// entry is one "key: value" of a configuration file in nats-server's syntax, with its place in the
// text: text[start:end] is the whole entry, text[value:end] its value.
type entry struct {
	key               string
	line              int // of the key, from 1
	start, value, end int // in bytes
	kind              kind
	text              string   // of a scalar, without quotes
	items             []string // of an array: its scalars
	children          []entry  // of a block
}

// list returns the values of an array, or the one of a scalar; of a block none.
func (e entry) list() []string {
	switch {
	case e.kind == array:
		return e.items
	case e.kind == scalar && e.text != "":
		return []string{e.text}
	}
	return nil
}

// find returns the entry with one of the names, which are compared without regard to case as
// nats-server does.
func find(entries []entry, names ...string) (entry, bool) {
	for _, e := range entries {
		for _, n := range names {
			if strings.EqualFold(e.key, n) {
				return e, true
			}
		}
	}
	return entry{}, false
}

// scanner finds where the entries of a configuration file are. It does not judge keys and values;
// millraced does.
type scanner struct {
	text string
	pos  int
}

// scanConfig returns the top-level entries. Errors say the line.
func scanConfig(text string) ([]entry, error) {
	s := &scanner{text: text}
	return s.entries(0)
}

// line is the line of a position, from 1.
func (s *scanner) line(pos int) int {
	return 1 + strings.Count(s.text[:pos], "\n")
}

func (s *scanner) errorf(pos int, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", s.line(pos), fmt.Sprintf(format, args...))
}

// peek returns the next byte; 0 at the end.
func (s *scanner) peek() byte {
	if s.pos >= len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

// skip passes white space, comments and the bytes in also.
func (s *scanner) skip(also string) {
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == '#' || strings.HasPrefix(s.text[s.pos:], "//"):
			if end := strings.IndexByte(s.text[s.pos:], '\n'); end >= 0 {
				s.pos += end
			} else {
				s.pos = len(s.text)
			}
		case strings.IndexByte(" \t\r\n", c) >= 0 || strings.IndexByte(also, c) >= 0:
			s.pos++
		default:
			return
		}
	}
}

// entries reads entries up to the end of the text (depth 0) or of the block.
func (s *scanner) entries(depth int) ([]entry, error) {
	var list []entry
	for {
		s.skip(",;")
		switch c := s.peek(); {
		case s.pos >= len(s.text) && depth > 0:
			return nil, s.errorf(s.pos, "a block is not closed with }")
		case s.pos >= len(s.text):
			return list, nil
		case c == '}' && depth > 0:
			s.pos++
			return list, nil
		case strings.IndexByte("{}[]():=", c) >= 0:
			return nil, s.errorf(s.pos, "expected a key, found %q", c)
		}
		e, err := s.entry(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
}

// entry reads one key and its value.
func (s *scanner) entry(depth int) (entry, error) {
	e := entry{start: s.pos, line: s.line(s.pos)}
	if c := s.peek(); c == '"' || c == '\'' {
		key, err := s.quoted()
		if err != nil {
			return e, err
		}
		e.key = key
	} else {
		e.key = s.until(" \t\r\n:={")
	}
	s.skip(":=")
	if strings.EqualFold(e.key, "include") {
		return e, s.errorf(e.start, "include: a box has one configuration file and cannot include others")
	}
	e.value = s.pos
	err := s.readValue(&e, depth)
	e.end = s.pos
	return e, err
}

// readValue reads a value into e.
func (s *scanner) readValue(e *entry, depth int) error {
	if depth >= maxDepth {
		return s.errorf(s.pos, "blocks are nested deeper than %d", maxDepth)
	}
	var err error
	switch c := s.peek(); c {
	case '{':
		s.pos++
		e.kind = block
		e.children, err = s.entries(depth + 1)
	case '[':
		s.pos++
		e.kind = array
		e.items, err = s.items(depth + 1)
	case '"', '\'':
		e.text, err = s.quoted()
	case '(':
		e.text, err = s.textBlock()
	case 0, '}', ']', ',', ';':
		return s.errorf(e.start, "key %q has no value", e.key)
	default:
		e.text = s.until(" \t\r\n,;]}")
	}
	return err
}

// items reads an array after its bracket. Blocks and arrays in it are passed over.
func (s *scanner) items(depth int) ([]string, error) {
	var list []string
	for {
		s.skip(",")
		if s.pos >= len(s.text) {
			return nil, s.errorf(s.pos, "an array is not closed with ]")
		}
		if s.peek() == ']' {
			s.pos++
			return list, nil
		}
		item := entry{start: s.pos, key: "array"}
		if err := s.readValue(&item, depth); err != nil {
			return nil, err
		}
		if item.kind == scalar {
			list = append(list, item.text)
		}
	}
}

// until reads up to the first of the bytes in stop.
func (s *scanner) until(stop string) string {
	start := s.pos
	if n := strings.IndexAny(s.text[s.pos:], stop); n >= 0 {
		s.pos += n
	} else {
		s.pos = len(s.text)
	}
	return s.text[start:s.pos]
}

// quoted reads a string in quotes. In double quotes a backslash takes the next byte literally.
func (s *scanner) quoted() (string, error) {
	start, quote := s.pos, s.peek()
	var b strings.Builder
	for s.pos++; s.pos < len(s.text); s.pos++ {
		c := s.text[s.pos]
		switch {
		case c == quote:
			s.pos++
			return b.String(), nil
		case c == '\\' && quote == '"' && s.pos+1 < len(s.text):
			s.pos++
			b.WriteByte(s.text[s.pos])
		default:
			b.WriteByte(c)
		}
	}
	return "", s.errorf(start, "a string is not closed with %c", quote)
}

// textBlock reads a text in parentheses, which ends at a parenthesis on a line of its own.
func (s *scanner) textBlock() (string, error) {
	start := s.pos
	for pos := s.pos + 1; pos < len(s.text); {
		end := strings.IndexByte(s.text[pos:], ')')
		if end < 0 {
			break
		}
		end += pos
		lineStart := 1 + strings.LastIndexByte(s.text[:end], '\n')
		if lineStart > start && strings.TrimSpace(s.text[lineStart:end]) == "" {
			s.pos = end + 1
			return s.text[start+1 : lineStart], nil
		}
		pos = end + 1
	}
	return "", s.errorf(start, "a text is not closed with ) on a line of its own")
}
