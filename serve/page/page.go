package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"time"
)

//go:embed static
var static embed.FS

//go:embed openapi.yaml
var document []byte

// OpenAPI returns the OpenAPI 3.1 document of the handler's paths, in YAML. The names of its components begin with Page.
func OpenAPI() []byte { return slices.Clone(document) }

// policy allows what the page uses: files of this server, and images made in the page (blob: and data:).
const policy = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'"

// types are the media types by the file's extension, which the machine's own table of them may lack.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// New returns the handler of the page and of what it asks about the engine's models.
func New(e Engine, o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /api/models", models(e, o))
	mux.Handle("GET /api/adapters", adapters(e))
	err := fs.WalkDir(static, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		if name == "static/index.html" {
			mux.Handle("GET /{$}", file(name, data))
			return nil
		}
		mux.Handle("GET /"+name, file(name, data))
		return nil
	})
	if err != nil {
		panic(err) // the files are in the program: only a broken build gets here
	}
	return mux
}

// file serves one file, which browsers ask for again but receive only when the program has changed.
func file(name string, data []byte) http.Handler {
	sum := sha256.Sum256(data)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
}
