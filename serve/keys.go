package serve

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Limits of a file of API keys.
const (
	leastKey = 16 // characters
	mostKey  = 512
	mostKeys = 10_000
)

// Keys are the API keys of clients. Only their hashes are kept.
type Keys struct{ hashes [][sha256.Size]byte }

// ReadKeys reads API keys, one on each line. Empty lines and those that begin with # are skipped. Errors do not quote a key.
func ReadKeys(r io.Reader) (*Keys, error) {
	var all Keys
	seen := map[[sha256.Size]byte]int{}
	lines, line := bufio.NewScanner(r), 1
	for ; lines.Scan(); line++ {
		key := lines.Bytes()
		if line == 1 {
			key = bytes.TrimPrefix(key, []byte("\ufeff")) // of editors that mark UTF-8
		}
		key = bytes.TrimSpace(key)
		if len(key) == 0 || key[0] == '#' {
			continue
		}
		if len(key) < leastKey || len(key) > mostKey {
			return nil, fmt.Errorf("line %d: want a key of %d to %d characters, got %d", line, leastKey, mostKey, len(key))
		}
		if bytes.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return nil, fmt.Errorf("line %d: want a key of ASCII letters, digits and punctuation, without spaces", line)
		}
		hash := sha256.Sum256(key)
		if before := seen[hash]; before > 0 {
			return nil, fmt.Errorf("line %d: the same key as on line %d", line, before)
		}
		if len(all.hashes) == mostKeys {
			return nil, fmt.Errorf("want at most %d keys", mostKeys)
		}
		seen[hash] = line
		all.hashes = append(all.hashes, hash)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: want a key of %d to %d characters, got more than %d", line, leastKey, mostKey, bufio.MaxScanTokenSize-1)
	} else if err != nil {
		return nil, err
	}
	if len(all.hashes) == 0 {
		return nil, errors.New("want at least one key, one on each line")
	}
	return &all, nil
}

// Len is the number of keys.
func (k *Keys) Len() int { return len(k.hashes) }

// find returns the number of a key, from 1; 0 if it is none of them. Time does not depend on which one, or on how much of one, is right: hashes are
// compared, and all of them.
func (k *Keys) find(key string) int {
	hash, found := sha256.Sum256([]byte(key)), 0
	for i := range k.hashes {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], k.hashes[i][:]), i+1, found)
	}
	return found
}

// keyOf returns the key in a request's headers: a bearer token, the password of basic authentication, which clients of A1111 send, or X-Api-Key.
func keyOf(r *http.Request) string {
	if kind, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(kind, "bearer") {
		return strings.TrimSpace(token)
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	return r.Header.Get("X-Api-Key")
}
