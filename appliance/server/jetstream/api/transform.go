package api

import (
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"

	"millrace/appliance/server/subject"
)

// Transform maps subjects (ADR-30). It is immutable and safe for concurrent use.
type Transform struct {
	source      string
	sourceCount int // tokens of source
	parts       []transformPart
}

// transformPart makes one token, or for split and slice some tokens, of the result.
type transformPart struct {
	fn      transformFunc
	literal string // fn is fnLiteral
	tokens  []int  // indices of source tokens
	number  int    // partitions, position or length
	delim   string // fn is fnSplit
}

type transformFunc uint8

const (
	fnLiteral transformFunc = iota
	fnWildcard
	fnPartition
	fnSplitFromLeft
	fnSplitFromRight
	fnSliceFromLeft
	fnSliceFromRight
	fnSplit
	fnLeft
	fnRight
	fnRandom
)

// transformFuncs names the functions; letters that are upper case here may be either case.
var transformFuncs = map[transformFunc]string{
	fnWildcard: "Wildcard", fnPartition: "Partition", fnSplitFromLeft: "SplitFromLeft",
	fnSplitFromRight: "SplitFromRight", fnSliceFromLeft: "SliceFromLeft",
	fnSliceFromRight: "SliceFromRight", fnSplit: "Split", fnLeft: "Left", fnRight: "Right",
	fnRandom: "Random",
}

// Reasons why a destination is refused, worded as nats-server does.
const (
	badSubject       = "invalid subject"
	badDestination   = "invalid mapping destination"
	reasonTransform  = badDestination + ": invalid transform"
	reasonUnknown    = badDestination + ": unknown function"
	reasonRange      = badDestination + ": wildcard index out of range"
	reasonFewArgs    = badDestination + ": not enough arguments passed to the function"
	reasonManyArgs   = badDestination + ": too many arguments passed to the function"
	reasonInvalidArg = badDestination + ": function argument is invalid or in the wrong format"
)

// ParseTransform returns the transform from source to destination. An empty source is ">". Random
// is refused: a transform here gives the same result every time.
func ParseTransform(source, destination string) (*Transform, error) {
	if source == "" {
		source = subject.Full
	}
	if !subject.Valid(source) {
		return nil, fmt.Errorf("%s %s", badSubject, source)
	}
	if destination == "" {
		return nil, fmt.Errorf("%s", badSubject)
	}
	t := &Transform{source: source}
	var wildcards []int
	full := false
	for token := range strings.SplitSeq(source, ".") {
		switch token {
		case subject.Wildcard:
			wildcards = append(wildcards, t.sourceCount)
		case subject.Full:
			full = true
		}
		t.sourceCount++
	}
	dest := strings.Split(destination, ".")
	for i, token := range dest {
		switch {
		case token == "" || token == subject.Full && i != len(dest)-1:
			return nil, reasonIn(reasonTransform, token)
		case token == subject.Wildcard:
			return nil, fmt.Errorf("%s", badSubject)
		case token == subject.Full:
			continue // the rest of the source's subject is appended
		}
		p, err := parsePart(token, wildcards, full)
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, p)
	}
	if full != (dest[len(dest)-1] == subject.Full) {
		return nil, fmt.Errorf("%s", badSubject)
	}
	return t, nil
}

func reasonIn(reason, token string) error {
	if token == "" {
		return fmt.Errorf("%s", reason)
	}
	return fmt.Errorf("%s in %s", reason, token)
}

// parsePart reads one token of a destination: a literal, $n, or {{function(arguments)}}.
func parsePart(token string, wildcards []int, full bool) (transformPart, error) {
	literal := transformPart{fn: fnLiteral, literal: token}
	if token[0] == '$' && len(token) > 1 {
		n, err := strconv.Atoi(token[1:])
		if err != nil {
			return literal, nil // such as $KV
		}
		return indexed(transformPart{fn: fnWildcard, tokens: []int{n}}, token, wildcards)
	}
	if len(token) <= 4 || !strings.HasPrefix(token, "{{") || !strings.HasSuffix(token, "}}") {
		if strings.ContainsAny(token, "\t\n\f\r ") {
			return literal, reasonIn(reasonTransform, "")
		}
		return literal, nil
	}
	call := strings.TrimSpace(token[2 : len(token)-2])
	name, args, ok := strings.Cut(call, "(")
	if !ok || !strings.HasSuffix(args, ")") {
		return literal, reasonIn(reasonUnknown, token)
	}
	p := transformPart{fn: functionNamed(strings.TrimSpace(name))}
	err := p.parseArgs(token, strings.Split(args[:len(args)-1], ","))
	if err != nil {
		return literal, err
	}
	if len(wildcards) == 0 && !full {
		if p.fn != fnPartition {
			return literal, reasonIn(reasonRange, token)
		}
		p.tokens = nil // a literal source: the whole subject is hashed
	}
	return indexed(p, token, wildcards)
}

// functionNamed returns the function of that name, or fnLiteral when there is none.
func functionNamed(name string) transformFunc {
	for fn, canonical := range transformFuncs {
		if len(name) != len(canonical) || !strings.EqualFold(name, canonical) {
			continue
		}
		exact := true
		for i := range len(name) {
			if c := canonical[i]; c != name[i] && (c < 'A' || c > 'Z') {
				exact = false
			}
		}
		if exact {
			return fn
		}
	}
	return fnLiteral
}

func (p *transformPart) parseArgs(token string, args []string) error {
	number := func(i, least int) (int, error) {
		n, err := strconv.Atoi(strings.Trim(args[i], " "))
		if err != nil || n < least || n > math.MaxInt32 {
			return 0, reasonIn(reasonInvalidArg, token)
		}
		return n, nil
	}
	var err error
	switch p.fn {
	case fnLiteral:
		return reasonIn(reasonUnknown, token)
	case fnRandom:
		return fmt.Errorf("random is not supported in %s", token)
	case fnWildcard:
		if len(args) > 1 {
			return reasonIn(reasonManyArgs, token)
		}
		if args[0] == "" {
			return reasonIn(reasonFewArgs, token)
		}
		p.tokens = []int{0}
		p.tokens[0], err = number(0, math.MinInt32)
		return err
	case fnPartition:
		if p.number, err = number(0, 1); err != nil {
			return err
		}
		for i := 1; i < len(args); i++ {
			n, err := number(i, math.MinInt32)
			if err != nil {
				return err
			}
			p.tokens = append(p.tokens, n)
		}
		return nil
	}
	if len(args) < 2 {
		return reasonIn(reasonFewArgs, token)
	}
	if len(args) > 2 {
		return reasonIn(reasonManyArgs, token)
	}
	p.tokens = []int{0}
	if p.tokens[0], err = number(0, math.MinInt32); err != nil {
		return err
	}
	if p.fn == fnSplit {
		p.delim = strings.TrimLeft(args[1], " ")
		if p.delim == "" || strings.Contains(p.delim, " ") {
			return reasonIn(reasonInvalidArg, token)
		}
		return nil
	}
	p.number, err = number(1, math.MinInt32)
	return err
}

// indexed turns the wildcard numbers of p into indices of source tokens.
func indexed(p transformPart, token string, wildcards []int) (transformPart, error) {
	for i, n := range p.tokens {
		if n < 1 || n > len(wildcards) {
			return p, reasonIn(reasonRange, fmt.Sprintf("%s: [%d]", token, n))
		}
		p.tokens[i] = wildcards[n-1]
	}
	return p, nil
}

// Apply returns the subject that s is mapped to. ok is false when the source does not match s or
// the result would not be a valid subject; the message then keeps its subject.
func (t *Transform) Apply(s string) (mapped string, ok bool) {
	if t.source != subject.Full && !subject.Match(t.source, s) {
		return "", false
	}
	tokens := strings.Split(s, ".")
	var b strings.Builder
	for i := range t.parts {
		if i > 0 {
			b.WriteByte('.')
		}
		t.parts[i].write(&b, s, tokens)
	}
	if strings.HasSuffix(t.source, subject.Full) {
		for i, token := range tokens[t.sourceCount-1:] {
			if i > 0 || len(t.parts) > 0 {
				b.WriteByte('.')
			}
			b.WriteString(token)
		}
	}
	mapped = b.String()
	return mapped, subject.ValidLiteral(mapped)
}

func (p *transformPart) write(b *strings.Builder, s string, tokens []string) {
	if p.fn == fnLiteral {
		b.WriteString(p.literal)
		return
	}
	if p.fn == fnPartition {
		h := fnv.New32a()
		for _, i := range p.tokens {
			h.Write([]byte(tokens[i]))
		}
		if len(p.tokens) == 0 {
			h.Write([]byte(s))
		}
		b.WriteString(strconv.Itoa(int(h.Sum32() % uint32(p.number))))
		return
	}
	token := tokens[p.tokens[0]]
	if p.fn == fnSplit {
		pieces := strings.FieldsFunc(strings.ReplaceAll(token, p.delim, "."), func(r rune) bool { return r == '.' })
		b.WriteString(strings.Join(pieces, "."))
		return
	}
	if p.fn == fnWildcard || p.number <= 0 || p.number >= len(token) {
		b.WriteString(token) // too short to cut
		return
	}
	switch n := p.number; p.fn {
	case fnSplitFromLeft:
		b.WriteString(token[:n] + "." + token[n:])
	case fnSplitFromRight:
		b.WriteString(token[:len(token)-n] + "." + token[len(token)-n:])
	case fnLeft:
		b.WriteString(token[:n])
	case fnRight:
		b.WriteString(token[len(token)-n:])
	case fnSliceFromLeft:
		for ; len(token) > n; token = token[n:] {
			b.WriteString(token[:n] + ".")
		}
		b.WriteString(token)
	case fnSliceFromRight:
		if rest := len(token) % n; rest > 0 {
			b.WriteString(token[:rest] + ".")
			token = token[rest:]
		}
		for ; len(token) > n; token = token[n:] {
			b.WriteString(token[:n] + ".")
		}
		b.WriteString(token)
	}
}
