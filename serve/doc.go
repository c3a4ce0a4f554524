// Package serve is an HTTP server of images: OpenAI's images API (package openai), that of Stable Diffusion web UI (webui), and a web page (page),
// over the models of package engine.
//
//	e, err := engine.New(engine.Options{Models: models})
//	// handle err
//	s, err := serve.New(e, serve.Options{})
//	// handle err
//	ln, err := s.Listen("127.0.0.1:7860")
//	// handle err
//	err = s.Serve(ctx, ln) // until ctx is done, and what was begun has ended
//
// [New] puts before the interfaces what they have in common, and [Server] is their http.Handler:
//
//   - Who may use it: API keys ([Keys]), without which [Server.Listen] refuses addresses that other machines reach; checks of the Host header
//     and of the origin, so that no other site's page uses a server on its visitor's machine.
//   - Limits of bodies in bytes, of connections, and of the time in which clients have to send and to read. A slow client does not
//     hold up others: the engine does not wait for it.
//   - An id for each request, X-Request-Id, a line in the log, metrics for Prometheus at /metrics, /healthz and /readyz for probes, and the
//     OpenAPI document of all paths at /openapi.json.
//   - Graceful shutdown: see [Server.Drain]. A panic fails only its own request.
//
// The log has neither keys nor prompts. No path or URL of a request is opened. Servers share nothing: any number of them can run behind a load balancer.
package serve
