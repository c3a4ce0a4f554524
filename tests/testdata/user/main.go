// Command user is a program of another module, which tests/module_test.go builds outside this tree: it trains by the name of a method, samples from what
// it has trained, and serves images of a Stable Diffusion model with adapters to clients that ask at once.
//
//	user DIRECTORY MODEL ADAPTERS
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch/vision"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, model, adapters string) error {
	if err := train(ctx, filepath.Join(dir, "run")); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := sample(ctx, filepath.Join(dir, "run"), filepath.Join(dir, "samples")); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	if err := serve(ctx, model, adapters, filepath.Join(dir, "served")); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// sample writes two images of a model in one step each.
func sample(ctx context.Context, path, to string) error {
	m, err := generate.Open(path, sd.Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for img, err := range m.Images(ctx, generate.Request{N: 2, Seed: 7}) {
		if err != nil {
			return err
		}
		if err := vision.Write(filepath.Join(to, fmt.Sprintf("%d.png", img.Seed)), img.Image, vision.WriteOptions{Texts: img.Texts}); err != nil {
			return err
		}
	}
	return nil
}

// server answers prompts, such as GET /?prompt=a+cat+<lora:ink:0.8>, with PNG files.
type server struct {
	model    *generate.Model
	adapters *lora.Cache
}

func (v server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := generate.Request{
		Prompts: []string{r.FormValue("prompt")}, Negative: "blurry", Sampler: "euler", Steps: 3, Guidance: 5, Seed: 1, Width: 64, Height: 64,
		Adapters: v.adapters,
	}
	for img, err := range v.model.Images(r.Context(), request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "image/png")
		if err := png.Encode(w, img.Image); err != nil {
			return // the client has gone
		}
	}
}

// serve starts a server and writes what clients get that ask alone, and at once.
func serve(ctx context.Context, model, adapters, to string) (err error) {
	m, err := generate.Open(model, sd.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	cache := lora.NewCache(m.Diffusion(), lora.CacheOptions{Dir: adapters})
	defer func() { err = errors.Join(err, cache.Close()) }()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := http.Server{Handler: server{m, cache}}
	stopped := make(chan error)
	go func() { stopped <- s.Serve(listener) }()
	defer func() {
		err = errors.Join(err, s.Shutdown(ctx))
		if stop := <-stopped; !errors.Is(stop, http.ErrServerClosed) {
			err = errors.Join(err, stop)
		}
	}()

	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	ask := func(name, prompt string) error {
		got, err := get("http://" + listener.Addr().String() + "/?prompt=" + url.QueryEscape(prompt))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return os.WriteFile(filepath.Join(to, name), got, 0o644)
	}
	const plain, adapted = "a photo of a red cat", "a photo of a red cat <lora:full-kohya:0.8>"
	if err := errors.Join(ask("plain.png", plain), ask("adapted.png", adapted)); err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		all.Go(func() {
			if i%2 == 0 {
				errs[i] = ask(fmt.Sprintf("plain-%d.png", i), plain)
			} else {
				errs[i] = ask(fmt.Sprintf("adapted-%d.png", i), adapted)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func get(address string) ([]byte, error) {
	r, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, r.Body); err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, errors.New(b.String())
	}
	return b.Bytes(), nil
}
