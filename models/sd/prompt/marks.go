package prompt

import "unicode"

// laterMarks are the characters that have a combining class or compose since Unicode 10, in ranges without any earlier one. The reference's
// NFC is that of Unicode 9 (measured with tokenizers 0.23.3), which does not change them.
var laterMarks = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x7fd, Hi: 0x7fd, Stride: 1}, {Lo: 0x897, Hi: 0x89f, Stride: 1}, {Lo: 0x8ca, Hi: 0x8d3, Stride: 1},
		{Lo: 0x9fe, Hi: 0x9fe, Stride: 1}, {Lo: 0xc3c, Hi: 0xc3c, Stride: 1}, {Lo: 0xd3b, Hi: 0xd3c, Stride: 1},
		{Lo: 0xeba, Hi: 0xeba, Stride: 1}, {Lo: 0x1715, Hi: 0x1715, Stride: 1}, {Lo: 0x1abf, Hi: 0x1aeb, Stride: 1},
		{Lo: 0x1df6, Hi: 0x1dfa, Stride: 1}, {Lo: 0xa82c, Hi: 0xa82c, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x105c9, Hi: 0x105e4, Stride: 1}, {Lo: 0x10d24, Hi: 0x10f85, Stride: 1}, {Lo: 0x11070, Hi: 0x11070, Stride: 1},
		{Lo: 0x1133b, Hi: 0x1133b, Stride: 1}, {Lo: 0x11382, Hi: 0x113d0, Stride: 1}, {Lo: 0x1145e, Hi: 0x1145e, Stride: 1},
		{Lo: 0x11839, Hi: 0x11a99, Stride: 1}, {Lo: 0x11d42, Hi: 0x11f42, Stride: 1}, {Lo: 0x1611e, Hi: 0x1612f, Stride: 1},
		{Lo: 0x16d63, Hi: 0x16ff1, Stride: 1}, {Lo: 0x1e08f, Hi: 0x1e6f5, Stride: 1},
	},
}

func isLaterMark(r rune) bool { return r >= 0x7fd && unicode.Is(laterMarks, r) }
