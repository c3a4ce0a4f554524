package dataset

import (
	_ "embed" // the emoji
	"encoding/json"
	"fmt"
	"image"
	"image/draw"

	"github.com/onestep-go/onestep/torch/vision"
)

// The embedded dataset: 1,906 Noto emoji at 32×32 on white, in Unicode's order; see NOTICE and scripts/make_emoji.py.
var (
	//go:embed emoji/atlas.webp
	emojiAtlas []byte
	//go:embed emoji/index.json
	emojiIndex []byte
)

// openEmoji decodes the embedded dataset. Its classes are Unicode's emoji groups.
func openEmoji(o Options) (*Set, error) {
	if o.Test {
		return nil, noSplit("emoji", o)
	}
	var index struct {
		Side, Columns int
		Groups, Names []string
		Labels        []int
	}
	if err := json.Unmarshal(emojiIndex, &index); err != nil {
		return nil, fmt.Errorf("emoji: %w", err) //quote: of this package's own file
	}
	atlas, err := vision.Decode(emojiAtlas)
	if err != nil {
		return nil, fmt.Errorf("emoji: %w", err)
	}
	n, side := len(index.Names), index.Side
	t := &table{format: "emoji", c: 3, h: side, w: side, pixels: make([]byte, n*3*side*side)}
	cell := image.NewRGBA(image.Rect(0, 0, side, side))
	for i, name := range index.Names {
		draw.Draw(cell, cell.Bounds(), atlas, image.Pt(i%index.Columns*side, i/index.Columns*side), draw.Src)
		vision.Planes(t.at(i), cell)
		t.labels = append(t.labels, byte(index.Labels[i]))
		t.captions = append(t.captions, "a flat emoji of "+name)
	}
	return newSet("emoji", t, index.Groups, o)
}
