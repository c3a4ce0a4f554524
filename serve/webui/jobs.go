package webui

import (
	"context"
	"encoding/json"
	"image"
	"net/http"
	"slices"
	"sync"
	"time"
)

// job is a request that is waiting or is served.
type job struct {
	client     string
	name       string
	iterations int
	batch      int
	started    time.Time
	cancel     context.CancelFunc

	mu                   sync.Mutex
	running              time.Time // when it was first served; zero: it waits
	each                 int       // steps of an image
	step, steps          int       // of all images
	finished             int
	image                image.Image // the latest preview or finished image
	interrupted, skipped bool
}

// jobs are those of all clients, the oldest first.
type jobs struct {
	mu  sync.Mutex
	all []*job
}

func (j *jobs) add(one *job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = append(j.all, one)
}

func (j *jobs) remove(one *job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = slices.DeleteFunc(j.all, func(other *job) bool { return other == one })
}

// of returns a client's jobs, those that are served first.
func (j *jobs) of(client string) (mine []*job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var waiting []*job
	for _, job := range j.all {
		switch {
		case job.client != client:
		case job.waits():
			waiting = append(waiting, job)
		default:
			mine = append(mine, job)
		}
	}
	return append(mine, waiting...)
}

func (j *job) waits() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.running.IsZero()
}

// change changes a job under its lock.
func (j *job) change(by func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	by()
}

// ended says whether the client has ended the job, by interrupt or skip.
func (j *job) ended() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.interrupted || j.skipped
}

// interrupt ends all requests of the client; those of others go on.
func (s *server) interrupt(r *http.Request) (any, error) {
	for _, job := range s.jobs.of(who(r)) {
		job.change(func() { job.interrupted = true })
		job.cancel()
	}
	return struct{}{}, nil
}

// skip ends the request of the client that is served; those that wait go on.
func (s *server) skip(r *http.Request) (any, error) {
	if mine := s.jobs.of(who(r)); len(mine) > 0 && !mine[0].waits() {
		mine[0].change(func() { mine[0].skipped = true })
		mine[0].cancel()
	}
	return nil, nil
}

// progressReply is A1111's, of the client's oldest request that is served.
type progressReply struct {
	Progress    float64 `json:"progress"`
	ETA         float64 `json:"eta_relative"`
	State       state   `json:"state"`
	Image       *string `json:"current_image"`
	TextForUser *string `json:"textinfo"`
}

type state struct {
	Skipped     bool   `json:"skipped"`
	Interrupted bool   `json:"interrupted"`
	Job         string `json:"job"`
	JobCount    int    `json:"job_count"`
	Timestamp   string `json:"job_timestamp"`
	JobNo       int    `json:"job_no"`
	Step        int    `json:"sampling_step"`
	Steps       int    `json:"sampling_steps"`
}

// timestamp is A1111's form of times.
const timestamp = "20060102150405"

func (s *server) progress(r *http.Request) (any, error) {
	skip, err := queryFlag(r, "skip_current_image")
	if err != nil {
		return nil, err
	}
	if !skip {
		s.choices.look(who(r))
	}
	mine := s.jobs.of(who(r))
	if len(mine) == 0 {
		return progressReply{State: state{Timestamp: "0"}}, nil
	}
	reply, img := mine[0].report(time.Now())
	if img != nil && !skip {
		text, err := encode(img, "png", nil)
		if err != nil {
			return nil, err
		}
		reply.Image = &text
	}
	return reply, nil
}

// report says how far a job is. While it waits, A1111's clients see a job without progress.
func (j *job) report(now time.Time) (progressReply, image.Image) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := progressReply{State: state{
		Skipped: j.skipped, Interrupted: j.interrupted, Job: j.name, JobCount: j.iterations, Timestamp: j.started.Format(timestamp),
	}}
	if j.running.IsZero() {
		return p, nil
	}
	images := j.iterations * j.batch
	p.State.JobNo = min(j.finished/j.batch, j.iterations-1)
	p.State.Steps = j.each
	if j.steps > 0 {
		p.State.Step = min(j.step*j.each/j.steps, j.each)
	}
	p.Progress = 0.01 // as A1111's, which tells clients that it has begun
	if j.steps > 0 {
		p.Progress = max(p.Progress, min(float64(j.step)/float64(j.steps), 1))
	}
	p.Progress = max(p.Progress, float64(j.finished)/float64(images))
	if spent := now.Sub(j.running).Seconds(); p.Progress < 1 {
		p.ETA = spent/p.Progress - spent
	}
	return p, j.image
}

func queryFlag(r *http.Request, name string) (bool, error) {
	q := r.URL.Query()
	if !q.Has(name) {
		return false, nil
	}
	value, err := json.Marshal(q.Get(name))
	f := form{fields: map[string]json.RawMessage{name: value}, in: []any{"query"}, bad: new(invalid)}
	if err != nil {
		return false, err
	}
	v := f.flag(name, false)
	return v, f.err()
}
