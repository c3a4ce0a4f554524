package serve

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/internal/notice"
)

// A web page anywhere can make its visitor's browser send requests to a server on the visitor's machine. Two checks refuse them: of the Host header,
// which has the page's own name after DNS rebinding, and of what browsers say of where a request comes from.

// parseOrigins checks origins as browsers write them.
func parseOrigins(texts []string) ([]string, error) {
	var all []string
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.String() != u.Scheme+"://"+u.Host {
			return nil, &OptionError{"Origins", "want a scheme and a host, such as https://example.com or http://localhost:3000, got " + quote.Quoted(text)}
		}
		all = append(all, strings.ToLower(text))
	}
	return all, nil
}

// hostname is the name or address in a Host header or an address to listen on, in lower case.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// hostAllowed reports whether a request may have a Host header. Keys protect from DNS rebinding, too: a page does not know them.
func (s *Server) hostAllowed(host string) bool {
	if s.o.Keys != nil && len(s.o.Hosts) == 0 {
		return true
	}
	name := hostname(host)
	if name == "localhost" || slices.Contains(s.hosts, name) {
		return true
	}
	// An address cannot be rebound. On a loopback address, requests have no other.
	ip, err := netip.ParseAddr(name)
	return err == nil && (ip.IsLoopback() || !s.loopback)
}

// originAllowed reports whether a request may come from where the browser says that it does, and the origin, if it is another one.
func (s *Server) originAllowed(r *http.Request) (other string, ok bool) {
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) { // a proxy may have ended TLS, so schemes may differ
			return "", true
		}
		return origin, slices.Contains(s.origins, strings.ToLower(origin))
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return "", true
	}
	// A link to the page is allowed; images, scripts, frames and forms of another site are not. Browsers send no Origin with them.
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	return "", read && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" && r.URL.Path == "/"
}

// cors answers the preflight request of an allowed origin, and adds what a browser wants to see in other answers to it. It reports whether the
// request is answered.
func cors(w http.ResponseWriter, r *http.Request, origin string) bool {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Access-Control-Expose-Headers", requestID+", Retry-After, "+notice.Header)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" && strings.Trim(strings.ToLower(asked), "abcdefghijklmnopqrstuvwxyz0123456789-_, ") == "" {
		h.Set("Access-Control-Allow-Headers", asked) // clients send names of their own, such as those of their version
	}
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
