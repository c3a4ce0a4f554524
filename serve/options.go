package serve

import (
	"context"
	"iter"
	"log/slog"

	"github.com/onestep-go/onestep/serve/engine"
)

// Engine generates the images; *engine.Engine implements it.
type Engine interface {
	Models() []engine.Info
	Adapters() ([]string, error)
	Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error]
	Status() engine.Status
	Drain(ctx context.Context) error
}

// Options configure a server. Zero fields have the defaults given.
type Options struct {
	Keys                 *Keys    // that clients have to send; nil: none
	Open                 bool     // may listen on addresses that other machines reach without keys
	Hosts                []string // names of the server, besides localhost, that requests may have in the Host header; see Server.Listen
	HostHelp, OriginHelp string   // how the server is started with further hosts and origins, for errors; "": not said
	Origins              []string // of other web pages that may use the server, such as https://example.com

	Ready   func() error // why the server is not ready, asked by each GET /readyz; nil: it is
	Version string       // of the program, for GET /openapi.json and metrics
	Log     *slog.Logger // one line for each request; nil: none

	BaseURL   string // of images that are served by URL, such as https://example.com; "": as the client names the server
	MaxSteps  int    // engine.Options', for the page; so are the next two
	MaxPixels int
	MaxImages int

	MaxBody   int64 // bytes of a request's body; 0: 64 MiB
	MaxBodies int64 // bytes of the bodies of all requests at once; 0: 512 MiB, or MaxBody if that is more
	MaxConns  int   // open connections; 0: 1024
}

func (o Options) withDefaults() Options {
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxBodies == 0 {
		o.MaxBodies = max(512<<20, o.MaxBody)
	}
	if o.MaxConns == 0 {
		o.MaxConns = 1024
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// OptionError reports an invalid option.
type OptionError struct {
	Option string // of [Options]
	Msg    string // what is wrong
}

// Error returns a message with the option's name.
func (e *OptionError) Error() string { return e.Option + ": " + e.Msg }
