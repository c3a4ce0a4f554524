package prompt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// Limits keep hostile files from taking too much memory and time. For comparison: CLIP's tokenizer.json has 3.6 MB and 49,408 tokens.
const (
	MaxFile   = 8 << 20 // bytes of a tokenizer's file
	maxVocab  = 1 << 18
	maxMerges = maxVocab
	maxAdded  = 1 << 12
)

// read reads a file of a tokenizer directory.
func read(dir, name string) ([]byte, error) {
	return plainfile.Read(filepath.Join(dir, name), MaxFile)
}

// readJSON reads a file into v and reports whether it exists.
func readJSON(dir, name string, v any) (bool, error) {
	data, err := read(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("%s: %w", name, quote.Error(err))
	}
	return true, nil
}

// Open reads a model's tokenizer directory: vocab.json and merges.txt, or else the tokenizer.json of transformers 5. The padding token,
// maximum length and added tokens come from tokenizer_config.json, special_tokens_map.json and added_tokens.json, if they exist, by the
// rules of transformers.
func Open(dir string) (*Tokenizer, error) {
	t, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("tokenizer %s: %w", quote.Path(dir), err)
	}
	return t, nil
}

func open(dir string) (*Tokenizer, error) {
	vocab := map[string]int{}
	var pairs [][2]string
	var added []addedToken
	ok, err := readJSON(dir, "vocab.json", &vocab)
	if err != nil {
		return nil, err
	}
	if ok {
		pairs, err = readMerges(dir)
	} else {
		vocab, pairs, added, err = readFast(dir)
	}
	if err != nil {
		return nil, err
	}
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	if c.decoder != nil {
		added = c.decoder
	}
	return assemble(vocab, pairs, added, c)
}

// readMerges reads merges.txt: pairs of tokens in the order of their ranks.
func readMerges(dir string) (pairs [][2]string, err error) {
	text, err := read(dir, "merges.txt")
	if err != nil {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || n == 1 && strings.HasPrefix(line, "#version") {
			continue
		}
		a, b, ok := strings.Cut(line, " ")
		if !ok || a == "" || b == "" {
			return nil, fmt.Errorf("merges.txt line %d: want two tokens separated by a space, got %s", n, quote.Quoted(line))
		}
		if pairs = append(pairs, [2]string{a, b}); len(pairs) > maxMerges {
			return nil, fmt.Errorf("merges.txt: want at most %d merges", maxMerges)
		}
	}
	return pairs, nil
}

// readFast reads tokenizer.json, the file of the tokenizers library.
func readFast(dir string) (vocab map[string]int, pairs [][2]string, added []addedToken, err error) {
	var file struct {
		Added []addedToken `json:"added_tokens"`
		Model struct {
			Type   string            `json:"type"`
			Suffix string            `json:"end_of_word_suffix"`
			Vocab  map[string]int    `json:"vocab"`
			Merges []json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	ok, err := readJSON(dir, "tokenizer.json", &file)
	if err != nil {
		return nil, nil, nil, err
	}
	if !ok {
		return nil, nil, nil, errors.New("want vocab.json and merges.txt, or tokenizer.json; the directory has neither")
	}
	if file.Model.Type != "BPE" || file.Model.Suffix != wordEnd {
		return nil, nil, nil, fmt.Errorf("tokenizer.json: want CLIP's tokenizer, BPE with words that end in %s, got %s with %s",
			wordEnd, quote.Quoted(file.Model.Type), quote.Quoted(file.Model.Suffix))
	}
	if n := len(file.Model.Merges); n > maxMerges {
		return nil, nil, nil, fmt.Errorf("tokenizer.json: want at most %d merges, got %d", maxMerges, n)
	}
	for _, raw := range file.Model.Merges { // "a b", or ["a", "b"]
		var pair []string
		var text string
		if json.Unmarshal(raw, &text) == nil {
			a, b, _ := strings.Cut(text, " ")
			pair = []string{a, b}
		} else if err := json.Unmarshal(raw, &pair); err != nil || len(pair) != 2 {
			return nil, nil, nil, fmt.Errorf("tokenizer.json: merge %d: want two tokens, got %s", len(pairs), quote.Quoted(raw))
		}
		pairs = append(pairs, [2]string(pair))
	}
	return file.Model.Vocab, pairs, file.Added, nil
}

// addedToken is an added token that prompts may contain, in the vocabulary or not. In JSON it is an object or only its text.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	Normalized *bool  `json:"normalized"` // matched in normalized text
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Special    bool   `json:"special"`
}

func (a *addedToken) UnmarshalJSON(data []byte) error {
	*a = addedToken{}                            // discard values from another file
	if json.Unmarshal(data, &a.Content) == nil { // or null
		return nil
	}
	type plain addedToken
	if err := json.Unmarshal(data, (*plain)(a)); err != nil {
		return fmt.Errorf("want a token, got %s", quote.Text(data))
	}
	if a.SingleWord || a.LStrip || a.RStrip {
		return fmt.Errorf("token %s has single_word, lstrip or rstrip: none of these is supported", quote.Quoted(a.Content))
	}
	return nil
}

// normalized reports whether the token is matched in normalized text. By default ordinary added tokens are, and special ones are not.
func (a addedToken) normalized() bool {
	return a.Normalized != nil && *a.Normalized || a.Normalized == nil && !a.Special
}

// same reports whether two tokens are written in the same way: plain text differs from an object.
func (a addedToken) same(b addedToken) bool {
	return a.Content == b.Content && (a.Normalized == nil) == (b.Normalized == nil) && a.normalized() == b.normalized()
}

// config is the content of a tokenizer directory's smaller files.
type config struct {
	named   []addedToken // bos, eos, unk and pad token, without ids
	unk     string
	pad     string
	max     int
	decoder []addedToken // nil: missing
}

func readConfig(dir string) (config, error) {
	type tokens struct {
		BOS *addedToken `json:"bos_token"`
		EOS *addedToken `json:"eos_token"`
		Unk *addedToken `json:"unk_token"`
		Pad *addedToken `json:"pad_token"`
	}
	var file struct {
		tokens
		Max     *float64              `json:"model_max_length"`
		Decoder map[string]addedToken `json:"added_tokens_decoder"`
	}
	c := config{max: maxTokens}
	const name = "tokenizer_config.json"
	if _, err := readJSON(dir, name, &file); err != nil {
		return c, err
	}
	if file.Max != nil && *file.Max < 1e6 { // transformers writes 1e30 for no limit
		if *file.Max < leastMax || *file.Max > mostMax || *file.Max != float64(int(*file.Max)) {
			return c, fmt.Errorf("%s: model_max_length is %g: want an integer from %d to %d", name, *file.Max, leastMax, mostMax)
		}
		c.max = int(*file.Max)
	}
	if file.Decoder != nil {
		c.decoder = []addedToken{}
		for key, a := range file.Decoder {
			if err := json.Unmarshal([]byte(key), &a.ID); err != nil {
				return c, fmt.Errorf("%s: added_tokens_decoder has the key %s: want a number", name, quote.Quoted(key))
			}
			c.decoder = append(c.decoder, a)
		}
	} else { // in older directories these files take precedence
		if _, err := readJSON(dir, "special_tokens_map.json", &file.tokens); err != nil {
			return c, err
		}
		var added map[string]int
		if ok, err := readJSON(dir, "added_tokens.json", &added); err != nil {
			return c, err
		} else if ok {
			for text, id := range added {
				c.decoder = append(c.decoder, addedToken{ID: id, Content: text})
			}
		}
	}
	for _, v := range []struct {
		token *addedToken
		key   string
	}{{file.BOS, "bos_token"}, {file.EOS, "eos_token"}, {file.Unk, "unk_token"}, {file.Pad, "pad_token"}} {
		usual := eosToken
		if v.key == "bos_token" {
			usual = bosToken
		}
		a := v.token
		if a == nil || a.Content == "" {
			a = &addedToken{Content: usual}
		}
		switch v.key {
		case "unk_token":
			c.unk = a.Content
		case "pad_token":
			c.pad = a.Content
		default:
			if a.Content != usual {
				return c, fmt.Errorf("%s is %s: want %s, as in CLIP's tokenizers", v.key, quote.Quoted(a.Content), usual)
			}
		}
		if !slices.ContainsFunc(c.named, a.same) {
			c.named = append(c.named, *a)
		}
	}
	for i := range c.named {
		c.named[i].Special = true
	}
	slices.Reverse(c.named) // of tokens with the same content the last counts
	return c, nil
}

// assemble makes a tokenizer. Vocabulary and added tokens together must have the ids 0 to n-1, and contain the results of all merges.
func assemble(vocab map[string]int, pairs [][2]string, added []addedToken, c config) (*Tokenizer, error) {
	if len(added) > maxAdded {
		return nil, fmt.Errorf("want at most %d added tokens, got %d", maxAdded, len(added))
	}
	if vocab == nil {
		vocab = map[string]int{}
	}
	for _, a := range added {
		if id, ok := vocab[a.Content]; ok && id != a.ID {
			return nil, fmt.Errorf("the added token %s has id %d, but in the vocabulary its id is %d", quote.Quoted(a.Content), a.ID, id)
		}
		vocab[a.Content] = a.ID
	}
	if len(vocab) == 0 || len(vocab) > maxVocab {
		return nil, fmt.Errorf("want a vocabulary of 1 to %d tokens, got %d", maxVocab, len(vocab))
	}
	t := &Tokenizer{ids: vocab, words: make([]string, len(vocab)), merges: make(map[[2]int32]merge, len(pairs)), max: c.max}
	given := make([]bool, len(vocab))
	for word, id := range vocab {
		if id < 0 || id >= len(vocab) || given[id] {
			return nil, fmt.Errorf("token %s has id %d: want each id from 0 to %d exactly once", quote.Quoted(word), id, len(vocab)-1)
		}
		t.words[id], given[id] = word, true
	}
	for rank, p := range pairs {
		var ids [3]int32
		for i, word := range []string{p[0], p[1], p[0] + p[1]} {
			id, ok := vocab[word]
			if !ok {
				return nil, fmt.Errorf("the merge of %s and %s: there is no token %s", quote.Quoted(p[0]), quote.Quoted(p[1]), quote.Quoted(word))
			}
			ids[i] = int32(id)
		}
		pair := [2]int32{ids[0], ids[1]}
		if _, ok := t.merges[pair]; ok {
			return nil, fmt.Errorf("duplicate merge of %s and %s", quote.Quoted(p[0]), quote.Quoted(p[1]))
		}
		t.merges[pair] = merge{int32(rank), ids[2]}
	}
	slices.SortFunc(added, func(a, b addedToken) int { return a.ID - b.ID })
	var specials []special
	for _, a := range slices.Concat(added, c.named) { // of tokens with the same content the first counts, as in transformers
		id, ok := vocab[a.Content]
		if !ok {
			return nil, fmt.Errorf("the special token %s is not in the vocabulary", quote.Quoted(a.Content))
		}
		if !slices.ContainsFunc(specials, func(s special) bool { return s.id == id }) {
			specials = append(specials, special{a.Content, id, a.normalized()})
		}
	}
	if err := t.finish(c.unk, specials); err != nil {
		return nil, err
	}
	t.setPad(vocab[c.pad])
	return t, nil
}
