package page_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is for machines that do other things: what does not come true takes so long to fail.
const patience = time.Minute

// chrome is a headless Chromium, driven by the DevTools protocol over pipes: JSON messages that end with a zero byte, which needs no library.
type chrome struct {
	writing sync.Mutex
	in      io.Writer

	mu      sync.Mutex
	last    int
	replies map[int]chan message
	tabs    map[string]*tab // by session
}

// message is a call, its reply, or an event.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// browser starts Chromium, which ends with the test. Without one on this machine the test is skipped.
func browser(t *testing.T) *chrome {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		t.Skip("no Chromium on this machine")
	}
	toChrome, in, err := os.Pipe()
	require.NoError(t, err)
	out, fromChrome, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--user-data-dir="+t.TempDir(), "--no-first-run",
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
		"--disable-sync", "--force-color-profile=srgb", "about:blank")
	cmd.ExtraFiles = []*os.File{toChrome, fromChrome} // descriptors 3 and 4
	require.NoError(t, cmd.Start())
	toChrome.Close()
	fromChrome.Close()
	c := &chrome{in: in, replies: map[int]chan message{}, tabs: map[string]*tab{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.read(out)
	}()
	t.Cleanup(func() {
		in.Close() // it ends when nobody can talk to it
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		cmd.Wait()
	})
	return c
}

func (c *chrome) read(out io.Reader) {
	var rest []byte
	buffer := make([]byte, 1<<16)
	for {
		n, err := out.Read(buffer)
		rest = append(rest, buffer[:n]...)
		for {
			end := bytes.IndexByte(rest, 0)
			if end < 0 {
				break
			}
			var m message
			var raw struct {
				Params json.RawMessage `json:"params"`
			}
			if json.Unmarshal(rest[:end], &m) == nil && json.Unmarshal(rest[:end], &raw) == nil {
				c.got(m, raw.Params)
			}
			rest = rest[end+1:]
		}
		if err != nil {
			c.mu.Lock()
			for _, reply := range c.replies {
				close(reply)
			}
			c.replies = nil
			c.mu.Unlock()
			return
		}
	}
}

func (c *chrome) got(m message, params json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ID != 0 {
		if reply, ok := c.replies[m.ID]; ok {
			reply <- m
			delete(c.replies, m.ID)
		}
		return
	}
	if p := c.tabs[m.Session]; p != nil {
		p.event(m.Method, params)
	}
}

// call calls a method, and decodes its result into out unless that is nil.
func (c *chrome) call(t *testing.T, session, method string, params, out any) {
	t.Helper()
	reply := make(chan message, 1)
	m := message{Session: session, Method: method, Params: params}
	c.mu.Lock()
	ended := c.replies == nil
	if !ended {
		c.last++
		m.ID = c.last
		c.replies[m.ID] = reply
	}
	c.mu.Unlock()
	require.False(t, ended, "%s: Chromium has ended", method)
	data, err := json.Marshal(m)
	require.NoError(t, err)
	c.writing.Lock()
	_, err = c.in.Write(append(data, 0))
	c.writing.Unlock()
	require.NoError(t, err)
	select {
	case r, ok := <-reply:
		require.True(t, ok, "%s: Chromium has ended", method)
		require.Nil(t, r.Error, "%s: %v", method, r.Error)
		if out != nil {
			require.NoError(t, json.Unmarshal(r.Result, out))
		}
	case <-time.After(patience):
		require.FailNow(t, method+": no reply")
	}
}

// tab is a page with storage of its own.
type tab struct {
	t       *testing.T
	c       *chrome
	session string
	context string   // of the browser, with its storage
	errors  []string // that the console shows; guarded by the chrome's mutex
}

type obj = map[string]any

// open opens a tab of a size. The scripts run before those of the page.
func (c *chrome) open(t *testing.T, url string, width, height int, scripts ...string) *tab {
	t.Helper()
	var context struct {
		ID string `json:"browserContextId"`
	}
	c.call(t, "", "Target.createBrowserContext", obj{"disposeOnDetach": true}, &context)
	var target struct {
		ID string `json:"targetId"`
	}
	c.call(t, "", "Target.createTarget", obj{"url": "about:blank", "browserContextId": context.ID, "width": width, "height": height}, &target)
	var attached struct {
		Session string `json:"sessionId"`
	}
	c.call(t, "", "Target.attachToTarget", obj{"targetId": target.ID, "flatten": true}, &attached)
	p := &tab{t: t, c: c, session: attached.Session, context: context.ID}
	c.mu.Lock()
	c.tabs[p.session] = p
	c.mu.Unlock()
	t.Cleanup(func() { c.call(t, "", "Target.disposeBrowserContext", obj{"browserContextId": context.ID}, nil) })
	for _, domain := range []string{"Runtime", "Log", "Page", "DOM"} {
		p.call(domain+".enable", obj{})
	}
	p.call("Emulation.setFocusEmulationEnabled", obj{"enabled": true})
	p.resize(width, height)
	for _, script := range scripts {
		p.call("Page.addScriptToEvaluateOnNewDocument", obj{"source": script})
	}
	p.call("Page.navigate", obj{"url": url})
	p.until("document.readyState === 'complete' && location.href !== 'about:blank'")
	return p
}

func (p *tab) event(method string, params json.RawMessage) {
	var e struct {
		Type string `json:"type"`
		Args []struct {
			Value       any    `json:"value"`
			Description string `json:"description"`
		} `json:"args"`
		Details struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
		Entry struct {
			Level string `json:"level"`
			Text  string `json:"text"`
			URL   string `json:"url"`
		} `json:"entry"`
	}
	if json.Unmarshal(params, &e) != nil {
		return
	}
	switch {
	case method == "Runtime.consoleAPICalled" && (e.Type == "error" || e.Type == "warning"):
		p.errors = append(p.errors, fmt.Sprint(e.Type, ": ", e.Args))
	case method == "Runtime.exceptionThrown":
		p.errors = append(p.errors, e.Details.Text+" "+e.Details.Exception.Description)
	case method == "Log.entryAdded" && (e.Entry.Level == "error" || e.Entry.Level == "warning"):
		p.errors = append(p.errors, e.Entry.Text+" "+e.Entry.URL)
	}
}

// quiet fails if the console shows an error without any of the words.
func (p *tab) quiet(allowed ...string) {
	p.t.Helper()
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for _, e := range p.errors {
		ok := false
		for _, a := range allowed {
			ok = ok || strings.Contains(e, a)
		}
		require.True(p.t, ok, "console: %s", e)
	}
}

func (p *tab) call(method string, params obj) {
	p.t.Helper()
	p.c.call(p.t, p.session, method, params, nil)
}

// resize sets the size of the page in CSS pixels.
func (p *tab) resize(width, height int) {
	p.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", obj{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
}

// scheme sets the colours that the user prefers, light or dark.
func (p *tab) scheme(name string) {
	p.t.Helper()
	p.call("Emulation.setEmulatedMedia", obj{"features": []obj{
		{"name": "prefers-color-scheme", "value": name}, {"name": "prefers-reduced-motion", "value": "reduce"}}})
}

// eval returns the value of an expression in the page, awaited if it is a promise.
func eval[T any](p *tab, js string) (v T) {
	p.t.Helper()
	var r struct {
		Result struct {
			Value T `json:"value"`
		} `json:"result"`
		Details *struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	p.c.call(p.t, p.session, "Runtime.evaluate", obj{"expression": js, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	if r.Details != nil {
		require.FailNow(p.t, "script failed", "%s: %s %s", js, r.Details.Text, r.Details.Exception.Description)
	}
	return r.Result.Value
}

func (p *tab) do(js string) {
	p.t.Helper()
	eval[any](p, js)
}

// until waits until an expression is true.
func (p *tab) until(js string) {
	p.t.Helper()
	end := time.Now().Add(patience)
	for !eval[bool](p, "Boolean("+js+")") {
		if time.Now().After(end) {
			p.screenshot(filepath.Join(p.t.ArtifactDir(), "failed.png"))
			require.FailNow(p.t, "it never came true", "%s\nmeta: %s\nnotices: %s", js, eval[string](p, "document.getElementById('meta')?.textContent ?? ''"),
				eval[string](p, "document.getElementById('notices')?.textContent ?? ''"))
		}
		time.Sleep(15 * time.Millisecond)
	}
}

// insert types a text where the focus is.
func (p *tab) insert(text string) {
	p.t.Helper()
	p.call("Input.insertText", obj{"text": text})
}

// keys are the codes of keys that are not characters.
var keys = map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}

// down presses a key, and up releases it; press does both.
func (p *tab) down(key string, shift bool) {
	p.t.Helper()
	event := obj{"type": "rawKeyDown", "key": key, "windowsVirtualKeyCode": keys[key], "modifiers": 0}
	if shift {
		event["modifiers"] = 8
	}
	if len(key) == 1 || key == "Enter" {
		event["type"], event["text"] = "keyDown", strings.ReplaceAll(key, "Enter", "\r")
	}
	p.call("Input.dispatchKeyEvent", event)
}

func (p *tab) up(key string) {
	p.t.Helper()
	p.call("Input.dispatchKeyEvent", obj{"type": "keyUp", "key": key, "windowsVirtualKeyCode": keys[key]})
}

func (p *tab) press(names ...string) {
	p.t.Helper()
	for _, key := range names {
		name, shift := strings.CutPrefix(key, "Shift+")
		p.down(name, shift)
		p.up(name)
	}
}

// middle is the middle of an element, after it was scrolled into view.
func (p *tab) middle(selector string) (x, y float64) {
	p.t.Helper()
	at := eval[[]float64](p, fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		e.scrollIntoView({ block: 'nearest' });
		const b = e.getBoundingClientRect();
		return [b.x + b.width / 2, b.y + b.height / 2];
	})()`, selector))
	return at[0], at[1]
}

func (p *tab) mouse(kind string, x, y float64) {
	p.t.Helper()
	event := obj{"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
	if kind == "mouseMoved" {
		event["clickCount"], event["buttons"] = 0, 1
	}
	p.call("Input.dispatchMouseEvent", event)
}

// click clicks in the middle of an element, again if it has moved away in between, as when a line above it appears.
func (p *tab) click(selector string) {
	p.t.Helper()
	for range 3 {
		p.do(fmt.Sprintf(`window.clicked = false; document.querySelector(%q).addEventListener('click', () => { window.clicked = true; }, { once: true, capture: true })`, selector))
		x, y := p.middle(selector)
		p.mouse("mousePressed", x, y)
		p.mouse("mouseReleased", x, y)
		if eval[bool](p, "window.clicked") {
			return
		}
	}
}

// drop drops a file on the page.
func (p *tab) drop(name, media string, data []byte) {
	p.t.Helper()
	p.do(fmt.Sprintf(`(() => {
		const bytes = Uint8Array.from(atob(%q), (c) => c.charCodeAt(0));
		const dataTransfer = new DataTransfer();
		dataTransfer.items.add(new File([bytes], %q, { type: %q }));
		for (const kind of ['dragenter', 'dragover', 'drop']) document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
	})()`, base64.StdEncoding.EncodeToString(data), name, media))
}

// choose chooses an option of a select.
func (p *tab) choose(id, value string) {
	p.t.Helper()
	p.do(fmt.Sprintf("(() => { const e = document.getElementById(%q); e.value = %q; e.dispatchEvent(new Event('change', { bubbles: true })); })()", id, value))
}

// screenshot writes what the page looks like.
func (p *tab) screenshot(path string) {
	p.t.Helper()
	var shot struct{ Data []byte }
	p.c.call(p.t, p.session, "Page.captureScreenshot", obj{"format": "png"}, &shot)
	require.NoError(p.t, os.WriteFile(path, shot.Data, 0o644))
}
