package boot

import (
	"fmt"
	"strings"
)

// paramPrefix starts the kernel parameters that are for us.
const paramPrefix = "millrace."

// Cmdline holds our parameters of the kernel command line, by name without "millrace.".
type Cmdline map[string]string

// ParseCmdline reads our parameters, "millrace.NAME=VALUE" or "millrace.NAME", out of a kernel
// command line. Values with spaces stand in double quotes, as for the kernel; of a parameter given
// twice the last counts.
func ParseCmdline(text string) Cmdline {
	c := make(Cmdline)
	for _, word := range splitCmdline(text) {
		name, ok := strings.CutPrefix(word, paramPrefix)
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(name, "=")
		c[name] = value
	}
	return c
}

// apply changes settings as the command line asks: disk and hostname.
func (c Cmdline) apply(s *Settings) error {
	for name, value := range c {
		switch name {
		case "disk":
			list, err := diskNames(strings.Split(value, ","))
			if err != nil {
				return fmt.Errorf("kernel command line: %sdisk: %w", paramPrefix, err)
			}
			s.Disks = list
		case "hostname":
			if !validHostname(value) {
				return fmt.Errorf("kernel command line: %shostname=%q: want letters, digits and inner dashes, at most 63", paramPrefix, value)
			}
			s.Network.Hostname = value
		default:
			return fmt.Errorf("kernel command line: unknown parameter %s%s; there are disk and hostname", paramPrefix, name)
		}
	}
	return nil
}

// splitCmdline splits at spaces outside double quotes and removes the quotes.
func splitCmdline(text string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for _, r := range text {
		switch {
		case r == '"':
			quoted, inWord = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// osReleaseValue reads one value of an os-release file; empty when it is not there.
func osReleaseValue(text, key string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}
