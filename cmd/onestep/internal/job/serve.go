package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/serve"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch"
)

// Serve holds the options of the server. Start from [DefaultServe].
type Serve struct {
	Models  []string // [NAME=]PATH, builtin or builtin-text; none: builtin-text
	LoRADir string
	DType   string // of Stable Diffusion
	Variant string

	PreviewVAEs []string // [NAME=]PATH of tiny autoencoders that decode previews of latent models

	Device  string
	Graphs  bool    // CUDA graphs
	Threads int     // 0: all processors
	Memory  float64 // GiB that open models take, at most; 0: four fifths of what is available
	Force   bool    // start even if a model's estimated memory exceeds what is available
	Version string

	Addr        string
	KeyFile     string
	WithoutKeys bool
	Hosts       []string
	Origins     []string
	BaseURL     string

	Queue, Batch, MaxImages, MaxSteps, MaxPixels int // 0: engine.Options' defaults
	Deadline                                     time.Duration

	Log  *slog.Logger
	Note func(string)
}

// DefaultServe returns the default options.
func DefaultServe() Serve {
	return Serve{Addr: "127.0.0.1:7860", Device: "cpu", DType: "f32", Deadline: 10 * time.Minute}
}

// Serving says what a server that has begun to listen is.
type Serving struct {
	URL    string   `json:"url"`              // as this machine opens it
	Others string   `json:"others,omitempty"` // as other machines do, by the host name; "": they cannot, or it is not known
	Models []string `json:"models"`           // the first is the default
}

// Run serves until ctx is done, and then until the requests before have ended. Errors that can be found without the weights are reported before it
// listens. listening is called when it does.
func (o Serve) Run(ctx context.Context, listening func(Serving) error) (err error) {
	dev, err := o.validate()
	if err != nil {
		return err
	}
	keys, err := o.keys()
	if err != nil {
		return err
	}
	if err := use(dev, o.Threads, o.Note); err != nil {
		return err
	}
	models, err := o.models(dev)
	if err != nil {
		return err
	}
	limit, err := o.memory(models, dev)
	if err != nil {
		return err
	}
	is := engine.Options{
		Queue: o.Queue, Batch: o.Batch, Deadline: o.Deadline, Memory: limit, MaxImages: o.MaxImages, MaxSteps: o.MaxSteps, MaxPixels: o.MaxPixels, LoRA: lora.CacheOptions{Dir: o.LoRADir},
	}
	var out Serving
	for _, m := range models {
		is.Models = append(is.Models, engine.Model{Name: m.name, File: m.file, Hash: m.hash, Bytes: m.bytes, Open: m.open, Changed: m.files.changed, Preview: m.preview})
		out.Models = append(out.Models, m.name)
	}
	e, err := engine.New(is)
	if err != nil {
		return err
	}
	first := &opening{engine: e, files: models[0].there, done: make(chan struct{})}
	defer func() {
		err = errors.Join(err, e.Close())
		if first.begun {
			<-first.done
		}
	}()
	name, _ := os.Hostname() // "": it is not printed
	hosts := o.Hosts
	if o.WithoutKeys && serve.ValidHost(name) {
		hosts = append(hosts[:len(hosts):len(hosts)], name)
	}
	s, err := serve.New(e, serve.Options{
		Keys: keys, Open: o.WithoutKeys, Hosts: hosts,
		HostHelp: "start it with --host-name and the name", OriginHelp: "start the server with --allow-origin and the site's origin, such as --allow-origin https://example.com",
		Origins: o.Origins, BaseURL: o.BaseURL, Version: o.Version, Log: o.Log,
		MaxSteps: o.MaxSteps, MaxPixels: o.MaxPixels, MaxImages: o.MaxImages, Ready: first.ready,
	})
	var wrong *serve.OptionError
	if errors.As(err, &wrong) {
		return usage("%s: %s", map[string]string{"Hosts": "--host-name", "Origins": "--allow-origin"}[wrong.Option], wrong.Msg)
	}
	if err != nil {
		return err
	}
	ln, err := o.listen(s)
	if err != nil {
		return err
	}
	first.begun = true
	go first.load(ctx, o.Log)
	out.URL, out.Others = urls(ln.Addr(), name)
	if err := listening(out); err != nil {
		return errors.Join(err, ln.Close())
	}
	return s.Serve(ctx, ln)
}

// opening is that of the first model when the server starts, so that clients know from the start what it is.
type opening struct {
	engine *engine.Engine
	files  func() error
	begun  bool
	done   chan struct{}

	mu  sync.Mutex
	err error
}

func (o *opening) load(ctx context.Context, log *slog.Logger) {
	defer close(o.done)
	err := o.engine.Load(ctx, "")
	if err == nil || ctx.Err() != nil || errors.Is(err, engine.ErrClosed) {
		return
	}
	o.mu.Lock()
	o.err = err
	o.mu.Unlock()
	if log != nil {
		log.Error("the first model cannot be opened", "error", err)
	}
}

// ready returns an error if files of the model have gone, or if it could not be opened, and was not since.
func (o *opening) ready() error {
	if err := o.files(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.engine.Models()[0].Kind == "" {
		return o.err
	}
	return nil
}

// urls are those of a server at an address, for this machine and for others by its name. An address that stands for all of them cannot be opened.
func urls(at net.Addr, name string) (here, others string) {
	addr, err := netip.ParseAddrPort(at.String())
	if err != nil || !addr.Addr().IsUnspecified() {
		return "http://" + at.String(), ""
	}
	port := strconv.Itoa(int(addr.Port()))
	if name != "" {
		others = "http://" + net.JoinHostPort(name, port)
	}
	return "http://" + net.JoinHostPort("127.0.0.1", port), others
}

// validate checks the options without opening any file.
func (o *Serve) validate() (dev torch.Device, err error) {
	if dev, err = torch.ParseDevice(o.Device); err != nil {
		return dev, usage("--device: %v", err)
	}
	if err := graphsOn(dev, o.Graphs); err != nil {
		return dev, err
	}
	host, port, err := net.SplitHostPort(o.Addr)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 {
		return dev, usage("--addr: want HOST:PORT, such as 127.0.0.1:7860 or :8080, got %s", quote.Quoted(o.Addr))
	}
	switch {
	case o.Threads < 0 || o.Threads > mostThreads:
		return dev, usage("--threads: want 1 to %d, got %d", mostThreads, o.Threads)
	case o.Deadline <= 0:
		return dev, usage("--deadline: want a time above 0, got %s", o.Deadline)
	case o.WithoutKeys && o.KeyFile != "":
		return dev, usage("--without-keys and --api-key-file: want one of them, got both")
	case host == "" && o.KeyFile == "" && !o.WithoutKeys:
		return dev, o.exposed()
	case o.BaseURL != "" && !isBaseURL(o.BaseURL):
		return dev, usage("--base-url: want a URL such as https://example.com, got %s", quote.Quoted(o.BaseURL))
	}
	if len(o.Models) == 0 {
		o.Models = []string{builtintext.Name}
	}
	return dev, There(Path{"--lora-dir", o.LoRADir, "a directory of adapters", Folder}, Path{"--api-key-file", o.KeyFile, "a file of API keys, one on each line", File})
}

// isBaseURL reports whether a text is a URL to which paths can be added.
func isBaseURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

func (o Serve) exposed() error {
	return usage("--addr %s: other machines could use the server: pass --api-key-file FILE, --addr 127.0.0.1:PORT, or --without-keys to allow it", quote.Text(o.Addr))
}

// mostKeys is how many bytes a file of API keys may have.
const mostKeys = 8 << 20

// keys reads the API keys; nil if there are none.
func (o Serve) keys() (*serve.Keys, error) {
	if o.KeyFile == "" {
		return nil, nil
	}
	data, err := plainfile.Read(o.KeyFile, mostKeys)
	if err != nil {
		return nil, fmt.Errorf("--api-key-file: %w", err)
	}
	keys, err := serve.ReadKeys(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("--api-key-file %s: %w", quote.Path(o.KeyFile), err)
	}
	if st, err := os.Stat(o.KeyFile); err == nil && st.Mode().Perm()&0o077 != 0 {
		tell(o.Note, fmt.Sprintf("%s: other users of this machine can read the API keys: run chmod 600 %s", quote.Path(o.KeyFile), shellWord(o.KeyFile)))
	}
	return keys, nil
}

// memory returns the limit of the memory of open models in bytes, and checks that each model fits.
func (o Serve) memory(models []served, dev torch.Device) (limit int64, err error) {
	limit, source := int64(o.Memory*(1<<30)), "--memory"
	if space, ok := roomOn(dev); limit == 0 && ok {
		limit, source = space.Bytes/5*4, space.Limit
	}
	for _, m := range models {
		if !o.Force && limit > 0 && m.bytes > limit {
			return 0, tooMuch("model "+quote.Text(m.name), "choose a smaller model, or --dtype bf16", float64(m.bytes), limit, source)
		}
	}
	return limit, nil
}

// listen listens on the address.
func (o Serve) listen(s *serve.Server) (net.Listener, error) {
	ln, err := s.Listen(o.Addr)
	switch {
	case errors.Is(err, serve.ErrOpen):
		return nil, o.exposed()
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--addr %s: another program listens there: stop it, or choose another port (0: any free one)", quote.Text(o.Addr))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("--addr %s: ports below 1024 need privileges: choose another port", quote.Text(o.Addr))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("--addr %s: not an address of this machine", quote.Text(o.Addr))
	case err != nil:
		return nil, fmt.Errorf("--addr: %w", quote.Error(err))
	}
	return ln, nil
}

// splitName splits a name off NAME=PATH. A path that exists is one, with = in it or without.
func splitName(text string) (name, path string) {
	if _, err := os.Stat(text); err == nil {
		return "", text
	}
	if name, path, ok := strings.Cut(text, "="); ok {
		return name, path
	}
	return "", text
}

// fileName is the name that settings of images have of a model at a path, without one of its own.
func fileName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return sd.NameOf(path)
}

// modelName makes a name of a path: that of a directory, such as a run's, or that of a file without its extension.
func modelName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	name := filepath.Base(path)
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return name
	}
	return strings.TrimSuffix(name, filepath.Ext(name))
}
