package prompt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Save writes the tokenizer's files for transformers into an existing directory: vocab.json, merges.txt, tokenizer_config.json and
// special_tokens_map.json. It does not overwrite files: an existing one is an error.
func (t *Tokenizer) Save(dir string) error {
	marshal := func(v any) []byte {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // maps and strings always encode
		return b.Bytes()
	}
	merges := make([]string, len(t.merges))
	for pair, m := range t.merges {
		merges[m.rank] = t.words[pair[0]] + " " + t.words[pair[1]] + "\n"
	}
	special := map[string]any{"bos_token": bosToken, "eos_token": eosToken, "unk_token": eosToken, "pad_token": t.words[t.pad]}
	added := map[int]any{} // tokens that prompts may contain, and how they are matched
	for _, list := range []names{t.raw, t.cleaned} {
		for _, tokens := range list {
			for _, s := range tokens {
				added[s.id] = map[string]any{"content": t.words[s.id], "normalized": s.clean, "lstrip": false, "rstrip": false,
					"single_word": false, "special": true}
			}
		}
	}
	config := map[string]any{"tokenizer_class": "CLIPTokenizer", "model_max_length": t.max, "do_lower_case": true,
		"add_prefix_space": false, "added_tokens_decoder": added}
	for k, v := range special {
		config[k] = v
	}
	for name, data := range map[string][]byte{
		"vocab.json": marshal(t.ids), "merges.txt": []byte("#version: 0.2\n" + strings.Join(merges, "")),
		"tokenizer_config.json": marshal(config), "special_tokens_map.json": marshal(special),
	} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("write a tokenizer: %w", err)
		}
		if _, err := f.Write(data); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
