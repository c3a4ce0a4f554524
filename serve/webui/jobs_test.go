package webui

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/serve/internal/client"
)

// held is a fake of which each image waits until it is let go. started has the client of each image that waits.
func held() (f *fake, started chan string, next func(client string)) {
	f, _ = newFake()
	started = make(chan string, 100)
	gates := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
	f.before = func(ctx context.Context, i int) error {
		who := client.From(ctx)
		started <- who
		select {
		case <-gates[who]:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f, started, func(client string) { gates[client] <- struct{}{} }
}

// begin sends a txt2img in the background; its reply comes in the channel.
func begin(t *testing.T, h http.Handler, who, body string) chan parsed {
	done := make(chan parsed, 1)
	go func() {
		r := httptest.NewRequest("POST", "/sdapi/v1/txt2img", strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(client.With(r.Context(), who)))
		var p parsed
		if json.Unmarshal(w.Body.Bytes(), &p) != nil || json.Unmarshal([]byte(p.Info), &p.info) != nil {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		done <- p
	}()
	return done
}

func TestProgress(t *testing.T) {
	f, started, next := held()
	h := New(f, Options{})
	progress := func(client, query string) (p progressReply) {
		status, body, _ := call(t, h, client, "GET", "/sdapi/v1/progress"+query, "")
		require.Equal(t, 200, status, string(body))
		require.NoError(t, json.Unmarshal(body, &p))
		return p
	}
	idle := progress("a", "?skip_current_image=true")
	require.Equal(t, []any{0.0, 0.0, 0, 0}, []any{idle.Progress, idle.ETA, idle.State.JobCount, idle.State.JobNo})
	require.Nil(t, idle.Image)
	const four = `{"batch_size": 2, "n_iter": 2, "steps": 4, "seed": 5}`
	a := begin(t, h, "a", four)
	require.Equal(t, "a", <-started)
	b := begin(t, h, "b", four)
	require.Equal(t, "b", <-started)
	for i, want := range []struct {
		progress float64
		job      int
	}{{0.01, 0}, {0.25, 0}, {0.5, 1}, {0.75, 1}} {
		p := progress("a", "?skip_current_image=1")
		require.InDelta(t, want.progress, p.Progress, 1e-9, i)
		require.Positive(t, p.ETA)
		require.Equal(t, []any{"scripts_txt2img", 2, want.job, i, 4}, []any{p.State.Job, p.State.JobCount, p.State.JobNo, p.State.Step, p.State.Steps})
		require.Regexp(t, `^\d{14}$`, p.State.Timestamp)
		require.InDelta(t, 0.01, progress("b", "?skip_current_image=1").Progress, 1e-9)
		next("a")
		if i < 3 {
			<-started
		}
	}
	require.Len(t, (<-a).Images, 4)
	require.Zero(t, progress("a", "").State.JobCount)
	for i := range 4 {
		next("b")
		if i < 3 {
			<-started
		}
	}
	require.Len(t, (<-b).Images, 4)
}

// interrupt ends all of the client's requests, with the images that are finished; skip the one that is served. Others' go on.
func TestInterruptAndSkip(t *testing.T) {
	for path, reply := range map[string]string{"interrupt": "{}", "skip": "null"} {
		f, started, next := held()
		h := New(f, Options{})
		a := begin(t, h, "a", `{"batch_size": 3, "seed": 9}`)
		require.Equal(t, "a", <-started)
		next("a")
		require.Equal(t, "a", <-started)
		b := begin(t, h, "b", `{}`)
		require.Equal(t, "b", <-started)
		status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/"+path, "")
		require.Equal(t, []any{200, reply}, []any{status, strings.TrimSpace(string(body))})
		got := <-a
		require.Len(t, got.Images, 1)
		require.Equal(t, []uint64{9, 10, 11}, got.info.AllSeeds)
		require.Len(t, got.info.Texts, 1)
		requireNotices(t, got, "1 of 3")
		select {
		case <-b:
			t.Fatal("another client's request ended, too")
		case <-time.After(10 * time.Millisecond):
		}
		next("b")
		require.Len(t, (<-b).Images, 1)
		status, _, _ = call(t, h, "a", "POST", "/sdapi/v1/"+path, "")
		require.Equal(t, 200, status, "with nothing to end")
	}
}

// Of two requests of a client, skip ends only the one that is served.
func TestSkipOne(t *testing.T) {
	for path, left := range map[string]int{"skip": 1, "interrupt": 0} {
		s := &server{}
		jobs := []*job{{client: "a"}, {client: "b", running: time.Now()}, {client: "a", running: time.Now()}}
		ended := map[*job]bool{}
		for _, j := range jobs {
			j.cancel = func() { ended[j] = true }
			s.jobs.add(j)
		}
		r := httptest.NewRequest("POST", "/", nil)
		end := map[string]func(*http.Request) (any, error){"skip": s.skip, "interrupt": s.interrupt}[path]
		_, err := end(r.WithContext(client.With(r.Context(), "a")))
		require.NoError(t, err)
		require.True(t, ended[jobs[2]], path)
		require.Equal(t, left == 0, ended[jobs[0]], path)
		require.False(t, ended[jobs[1]], path)
	}
}

// A client that looks at the image in work gets previews in its next requests, others do not pay for them.
func TestPreviews(t *testing.T) {
	f, h := newFake()
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Zero(t, f.last().Previews)
	get(t, h, "a", "/sdapi/v1/progress?skip_current_image=true")
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Zero(t, f.last().Previews)
	get(t, h, "a", "/sdapi/v1/progress")
	post(t, h, "b", "/sdapi/v1/txt2img", `{}`)
	require.Zero(t, f.last().Previews)
	f.before = func(_ context.Context, i int) error {
		if i == 1 {
			p := get(t, h, "a", "/sdapi/v1/progress").(map[string]any)
			m, _ := decode(t, p["current_image"].(string))
			require.Equal(t, 7, shade(m, 0, 0))
			require.Nil(t, get(t, h, "a", "/sdapi/v1/progress?skip_current_image=true").(map[string]any)["current_image"])
		}
		return nil
	}
	post(t, h, "a", "/sdapi/v1/txt2img", `{"batch_size": 2, "seed": 7}`)
	require.Positive(t, f.last().Previews)
	status, _, _ := call(t, h, "a", "GET", "/sdapi/v1/progress?skip_current_image=perhaps", "")
	require.Equal(t, 422, status)
}

// A request whose client goes away ends, without an answer.
func TestClientGoes(t *testing.T) {
	f, started, _ := held()
	s := New(f, Options{}).(*server)
	ctx, leave := context.WithCancel(client.With(context.Background(), "a"))
	w, ended := httptest.NewRecorder(), make(chan struct{})
	go func() {
		s.ServeHTTP(w, httptest.NewRequest("POST", "/sdapi/v1/txt2img", strings.NewReader(`{}`)).WithContext(ctx))
		close(ended)
	}()
	<-started
	leave()
	<-ended
	require.Empty(t, w.Body.String())
	require.Empty(t, s.jobs.all)
}

// An interrupted request for more images than the server allows is described as it was served.
func TestInterruptOfMany(t *testing.T) {
	f, started, _ := held()
	h := New(f, Options{})
	done := begin(t, h, "a", `{"batch_size": 1000, "n_iter": 20, "steps": 8}`)
	<-started
	status, _, _ := call(t, h, "a", "POST", "/sdapi/v1/interrupt", "")
	require.Equal(t, 200, status)
	got := <-done
	require.Equal(t, []int{16, 16, 16, 16}, []int{len(got.info.AllPrompts), len(got.info.AllNegatives), len(got.info.AllSeeds), len(got.info.AllSubseeds)})
}
