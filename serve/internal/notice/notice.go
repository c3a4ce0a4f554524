// Package notice puts what a user should know of a reply into its header, for clients that do not look for it in the body.
package notice

import (
	"net/http"
	"strings"
)

// Header is the name of the header; a reply has one for each notice.
const Header = "Onestep-Notice"

// Add adds notices to a header.
func Add(h http.Header, notices []string) {
	for _, n := range notices {
		h.Add(Header, ascii(n))
	}
}

var plain = strings.NewReplacer("×", "x", "–", "-", "…", "...", "’", "'")

// ascii returns a text as one line of ASCII, as a header may have it.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, plain.Replace(s))
}
