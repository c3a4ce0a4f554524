package openai

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// files are images that are served by URL: in memory, for a limited time, the newest ones of a limited number of bytes.
type files struct {
	most int64
	life time.Duration

	mu     sync.Mutex
	byName map[string]*list.Element
	order  list.List // of *file, oldest first
	bytes  int64
}

type file struct {
	name  string
	data  []byte
	until time.Time
}

// put keeps an image and returns its name, which cannot be guessed. The name's extension is the format, since programs name the files that they
// save by it.
func (s *files) put(data []byte, format string) string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	f := &file{name: hex.EncodeToString(random[:]) + "." + format, data: data, until: time.Now().Add(s.life)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName == nil {
		s.byName = map[string]*list.Element{}
	}
	s.byName[f.name] = s.order.PushBack(f)
	s.bytes += int64(len(data))
	s.drop()
	return f.name
}

// get returns an image, or nil if it is not there or not any more.
func (s *files) get(name string) *file {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
	if e := s.byName[name]; e != nil {
		return e.Value.(*file)
	}
	return nil
}

// drop removes what is too old or too much; the newest image stays.
func (s *files) drop() {
	now := time.Now()
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		f := e.Value.(*file)
		if f.until.After(now) && (s.bytes <= s.most || s.order.Len() == 1) {
			return
		}
		s.order.Remove(e)
		delete(s.byName, f.name)
		s.bytes -= int64(len(f.data))
	}
}

// file serves an image.
func (h *handler) file(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	f := h.files.get(name)
	if f == nil {
		return &Error{Status: http.StatusNotFound, Code: "not_found",
			Msg: fmt.Sprintf("there is no file %s; images are kept for %s at most", quoted(name), h.FileLife)}
	}
	header := w.Header()
	header.Set("Content-Type", "image/"+name[strings.LastIndexByte(name, '.')+1:])
	header.Set("Content-Disposition", `inline; filename="`+name+`"`)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", fmt.Sprintf("private, max-age=%d, immutable", int(time.Until(f.until).Seconds())))
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.data))
	return nil
}

// url returns the URL of an image as the client that asked for it sees the server.
func (h *handler) url(r *http.Request, name string) string {
	base := strings.TrimSuffix(h.BaseURL, "/")
	if base == "" {
		scheme := "http"
		if proxy := r.Header.Get("X-Forwarded-Proto"); r.TLS != nil || strings.EqualFold(proxy, "https") {
			scheme = "https"
		}
		base = scheme + "://" + r.Host
	}
	return base + "/v1/files/" + name
}
