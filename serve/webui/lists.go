package webui

import (
	"net/http"
	"slices"

	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
)

type modelItem struct {
	Title    string  `json:"title"`
	Name     string  `json:"model_name"`
	Hash     *string `json:"hash"`
	SHA256   *string `json:"sha256"`
	Filename string  `json:"filename"` // the name: where files lie is no matter of clients
	Config   *string `json:"config"`
}

func (s *server) models(*http.Request) (any, error) {
	all := []modelItem{}
	for _, m := range s.engine.Models() {
		all = append(all, modelItem{Title: m.Name, Name: m.Name, Filename: m.Name})
	}
	return all, nil
}

type samplerItem struct {
	Name    string            `json:"name"`
	Aliases []string          `json:"aliases"`
	Options map[string]string `json:"options"`
}

// samplers are those of the client's model. While it was never open, they are those of Stable Diffusion.
func (s *server) samplers(r *http.Request) (any, error) {
	model, _ := s.model(s.choices.of(who(r)).model)
	names := model.Samplers
	if len(names) == 0 {
		names = scheduler.Names()
	}
	all := []samplerItem{}
	for _, method := range names {
		name := samplerName(method)
		at := slices.IndexFunc(all, func(i samplerItem) bool { return i.Name == name })
		if at < 0 {
			at = len(all)
			all = append(all, samplerItem{Name: name, Aliases: []string{}, Options: map[string]string{}})
		}
		if method != name {
			all[at].Aliases = append(all[at].Aliases, method)
		}
	}
	return all, nil
}

type scheduleItem struct {
	Name      string   `json:"name"`
	Label     string   `json:"label"`
	Aliases   []string `json:"aliases"`
	Rho       float64  `json:"default_rho"`
	NeedInner bool     `json:"need_inner_model"`
}

// schedulers are A1111's schedule types that samplers here have.
func schedulers(*http.Request) (any, error) {
	all := []scheduleItem{}
	for _, i := range [][2]string{
		{"automatic", "Automatic"}, {"uniform", "Uniform"}, {"karras", "Karras"}, {"exponential", "Exponential"}, {"sgm_uniform", "SGM Uniform"}, {"beta", "Beta"},
	} {
		item := scheduleItem{Name: i[0], Label: i[1], Rho: -1, NeedInner: i[0] == "uniform" || i[0] == "sgm_uniform" || i[0] == "beta"}
		if i[0] == "karras" {
			item.Rho = 7
		}
		all = append(all, item)
	}
	return all, nil
}

type adapterItem struct {
	Name     string            `json:"name"`
	Alias    string            `json:"alias"`
	Path     string            `json:"path"`
	Metadata map[string]string `json:"metadata"`
}

func (s *server) loras(*http.Request) (any, error) {
	names, err := s.engine.Adapters()
	if err != nil {
		return nil, err
	}
	all := []adapterItem{}
	for _, name := range names {
		all = append(all, adapterItem{Name: name, Alias: name, Path: name, Metadata: map[string]string{}})
	}
	return all, nil
}

// upscalers has only A1111's first, which does nothing: clients take it from the list.
func upscalers(*http.Request) (any, error) {
	return []map[string]any{{"name": "None", "model_name": nil, "model_path": nil, "model_url": nil, "scale": 1}}, nil
}

// leftToServer is A1111's unload-checkpoint.
func (s *server) leftToServer(r *http.Request) (any, error) {
	s.note(nil, r, []string{"models are closed when memory is needed, not by requests"})
	return struct{}{}, nil
}

// memory is that of the system, and of the first GPU if libtorch has one.
func memory(*http.Request) (any, error) {
	return map[string]any{"ram": systemMemory(), "cuda": cudaMemory()}, nil
}

func systemMemory() map[string]any {
	m, err := torch.CPU.Memory()
	if err != nil {
		return map[string]any{"error": "unavailable"}
	}
	return usage(m)
}

func cudaMemory() map[string]any {
	if torch.CUDACount() == 0 {
		return map[string]any{"error": "unavailable"}
	}
	m, err := torch.CUDA(0).Memory()
	if err != nil {
		return map[string]any{"error": "unavailable"}
	}
	both := func(now, peak int64) map[string]int64 { return map[string]int64{"current": now, "peak": peak} }
	return map[string]any{
		"system": usage(m), "active": both(m.Allocated, m.PeakAllocated), "allocated": both(m.Allocated, m.PeakAllocated),
		"reserved": both(m.Reserved, m.PeakReserved), "inactive": both(m.Reserved-m.Allocated, m.PeakReserved-m.PeakAllocated),
		"events": map[string]int{"retries": 0, "oom": 0},
	}
}

func usage(m torch.MemoryStats) map[string]any {
	return map[string]any{"free": m.Free, "used": m.Total - m.Free, "total": m.Total}
}
