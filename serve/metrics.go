package serve

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are a server's, in a registry of its own.
type metrics struct {
	registry           *prometheus.Registry
	requests           *prometheus.CounterVec
	queued, generating *prometheus.HistogramVec
	images             *prometheus.CounterVec
}

func newMetrics(e Engine, o Options) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "onestep_requests_total", Help: "Requests answered, by path and status; 499: the client has gone."},
			[]string{"path", "code"}),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "onestep_queue_seconds", Help: "Time from the arrival of a request to its first step, opening the model included.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)}, []string{"model"}),
		generating: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "onestep_generating_seconds", Help: "Time from the first step of a request to its last image.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)}, []string{"model"}),
		images: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "onestep_images_total", Help: "Images generated."}, []string{"model"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "onestep_build_info", Help: "1, labelled by version.", ConstLabels: prometheus.Labels{"version": o.Version}})
	info.Set(1)
	m.registry.MustRegister(m.requests, m.queued, m.generating, m.images, info,
		gauge("onestep_queue_length", "Requests that wait.", func() float64 { return float64(e.Status().Waiting) }),
		gauge("onestep_running", "Requests that are being served.", func() float64 { return float64(e.Status().Running) }),
		counter("onestep_refused_total", "Requests that found the queue full.", func() float64 { return float64(e.Status().Refused) }),
		gauge("onestep_models_open", "Models in memory.", func() float64 { return float64(len(e.Status().Open)) }),
		gauge("onestep_models_bytes", "Memory of the open models' weights.", func() float64 { return float64(e.Status().Bytes) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	for _, info := range e.Models() { // so that they are 0, not missing, from the start
		m.images.WithLabelValues(info.Name)
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
