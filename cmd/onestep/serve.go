package main

import (
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/models/builtintext"
)

func (a *app) serve() *cobra.Command {
	o := job.DefaultServe()
	format := "text"
	cmd := &cobra.Command{
		Use:        "serve",
		SuggestFor: []string{"server", "web", "ui", "api", "listen"},
		Short:      "Serve models over HTTP: a web page, OpenAI's images API and A1111's",
		Long: `Serve models over HTTP: a web page at /, OpenAI's images API at /v1, and the API of Stable Diffusion web UI (A1111) at /sdapi/v1.

Models are opened on first use, and closed when others need the memory. Requests wait in a queue in which clients take turns. Other machines
can use the server only with API keys or if --without-keys allows it; pages of other web sites cannot use it. The address is printed to
standard output when the server listens, and a line for each request to standard error. On SIGTERM, SIGHUP or Ctrl-C the server refuses new
requests, finishes those it has accepted, and exits with code 0. See docs/serve.md.`,
		Example: `  onestep serve
  onestep serve --model sd15 --model small=runs/fashion --lora-dir loras/ --addr 127.0.0.1:8080
  onestep serve --model lcm --addr :8080 --api-key-file keys.txt --log json`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sc := a.screen()
			o.Log, o.Note = slog.New(handler(sc, format, a.quiet)), func(note string) { sc.log.Warn(note) }
			o.Version = versionText()
			return o.Run(cmd.Context(), func(s job.Serving) error {
				address := s.URL
				if s.Others != "" {
					address += ", for other machines " + s.Others + ","
				}
				return a.print(s, "listening on "+address+" with "+strings.Join(s.Models, ", ")+"\n")
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.Models, "model", nil, pixelModel+", a Stable Diffusion directory or single file, builtin or builtin-text, optionally with a name for clients; may be given several times; the first is the default (default: builtin-text)")
	f.StringVar(&o.LoRADir, "lora-dir", "", "directory of LoRA adapters, which requests select by name")
	f.StringArrayVar(&o.PreviewVAEs, "preview-vae", nil, "tiny autoencoder (TAESD) that decodes previews of unfinished images of Stable Diffusion, optionally with the name of the model\nthat it is for; may be given several times (default: the model's own, for images of at most 256×256 pixels)")
	f.StringVar(&o.Variant, "variant", "", "variant of a directory's files: fp16 for those with .fp16. in their names")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of weights and computation of Stable Diffusion; other models compute in f32")
	f.StringVar(&o.Addr, "addr", o.Addr, "address to listen on; without a host all addresses of the machine, with port 0 any free port")
	f.StringVar(&o.KeyFile, "api-key-file", "", "file of API keys, one per line; # begins a comment; requests need one of them (default: no keys)")
	f.BoolVar(&o.WithoutKeys, "without-keys", false, "let other machines use the server without API keys")
	f.StringArrayVar(&o.Hosts, "host-name", nil, "name of the server in Host headers, besides localhost and addresses; may be given several times")
	f.StringArrayVar(&o.Origins, "allow-origin", nil, "origin of web pages that may use the server, such as https://example.com; may be given several times (default: only its own page)")
	f.StringVar(&o.BaseURL, "base-url", "", "URL of the server as clients see it, for images that are served by URL (default: the Host of the request)")
	f.Var(count{&o.Queue}, "queue", "maximum number of waiting requests; further ones are refused (default 64)")
	f.DurationVar(&o.Deadline, "deadline", o.Deadline, "time limit of a request, including its time in the queue")
	f.Var(count{&o.Batch}, "batch", "maximum number of images in a batch, of one request or several (default 16)")
	f.Var(count{&o.MaxImages}, "max-images", "maximum number of images per request (default 16)")
	f.Var(count{&o.MaxSteps}, "max-steps", "maximum number of sampling steps (default 50)")
	f.Var(count{&o.MaxPixels}, "max-pixels", "maximum number of pixels of an image (default 1048576, which is 1024×1024)")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	graphsFlag(f, &o.Graphs)
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.Var(above{&o.Memory}, "memory", "maximum memory for open models in GiB; the least recently used are closed (default: four fifths of what is available)")
	f.BoolVar(&o.Force, "force", false, "start even if a model's estimated memory exceeds what is available")
	f.Var(choice{&format, []string{"text", "json"}}, "log", "format of the log")
	f.BoolVar(&a.quiet, "quiet", false, "do not log requests; notices and errors are still logged")
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "[NAME=]PATH", "model", "preview-vae")
	call(f, "DIR", "lora-dir")
	call(f, "NAME", "variant", "host-name")
	call(f, "HOST:PORT", "addr")
	call(f, "FILE", "api-key-file")
	call(f, "URL", "allow-origin", "base-url")
	call(f, "TIME", "deadline")
	call(f, "DEVICE", "device")
	offer(cmd, "model", "builtin", builtintext.Name)
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Models", "model lora-dir preview-vae variant dtype"},
		topic{"Address and access", "addr api-key-file without-keys host-name allow-origin base-url"},
		topic{"Limits", "queue deadline max-images max-steps max-pixels"},
		topic{"Device and memory", "device cuda-graphs threads batch memory force"},
		topic{"Output", "log quiet json"},
	)
	return cmd
}

// handler writes the log of a server.
func handler(w io.Writer, format string, quiet bool) slog.Handler {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if quiet {
		o.Level = slog.LevelWarn
	}
	if format == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}
