package dataset

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"image"
	"sync"

	"golang.org/x/image/webp"
)

// The embedded set: 1,906 Noto emoji at 32x32 on white; see NOTICE and scripts/make_emoji.py.
var (
	//go:embed emoji/atlas.webp
	emojiAtlas []byte
	//go:embed emoji/index.json
	emojiIndex []byte
)

var openEmoji = sync.OnceValues(func() (*memory, error) {
	var index struct {
		Side, Columns int
		Groups, Names []string
		Labels        []int
	}
	if err := json.Unmarshal(emojiIndex, &index); err != nil {
		return nil, fmt.Errorf("embedded emoji: %w", err)
	}
	atlas, err := webp.Decode(bytes.NewReader(emojiAtlas))
	if err != nil {
		return nil, fmt.Errorf("embedded emoji: %w", err)
	}
	m := &memory{name: "emoji", c: 3, h: index.Side, w: index.Side, classes: index.Groups}
	for i, label := range index.Labels {
		x, y := i%index.Columns*index.Side, i/index.Columns*index.Side
		m.pixels = append(m.pixels, planes(atlas, image.Rect(x, y, x+index.Side, y+index.Side), 3)...)
		m.labels = append(m.labels, byte(label))
	}
	return m, nil
})
