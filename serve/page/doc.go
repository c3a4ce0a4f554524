// Package page is the web page of the server: type a prompt, or choose a class, and the image follows while you type.
//
//	mux.Handle("/", page.New(e, page.Options{}))
//
// [New] returns an http.Handler of these paths:
//
//	GET /               the page
//	GET /static/…       its style sheet, modules and icon
//	GET /api/models     the models, by [Engine], as [Models] in JSON
//	GET /api/adapters   the names of the adapters, as [Adapters] in JSON
//
// The page generates images by OpenAI's paths on the same server, POST /v1/images/generations and /v1/images/edits (package openai), as streams,
// with that package's extra fields (seed, steps, guidance, strength, loras, progress). Sizes are in pixels, and times that it shows are in seconds, as
// the browser measured them.
//
// The page needs no other server: all files are embedded in the program. They are plain HTML, CSS and ES modules in the directory static, served as
// they are. The Content-Security-Policy allows nothing but files of the same server and images that the page itself made. The page and its
// files hold no secrets and may be served without an API key: when /api/models answers 401, the page asks for the key, keeps it for the
// browser's tab, and sends it as a bearer token.
package page
