package prompt

import (
	"strings"
	"testing"
)

// A text as people write them.
const ordinary = "portrait of an astronaut riding a horse on mars, (highly detailed:1.2), oil painting, 4k, don't blur"

func BenchmarkEncode(b *testing.B) {
	for name, text := range map[string]string{
		"ordinary": ordinary,
		"long":     strings.Repeat(ordinary+", ", 20),
		"Korean":   strings.Repeat("말을 탄 우주 비행사의 초상화, ", 5),
		"marks":    strings.Repeat("cafe\u0301 a\u0323\u0302 ", 20),
		"word":     strings.Repeat("x", 10000),
	} {
		b.Run(name, func(b *testing.B) {
			d := Default()
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				d.Encode(text)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		Parse(ordinary)
	}
}
