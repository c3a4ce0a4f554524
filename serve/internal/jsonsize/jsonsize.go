// Package jsonsize limits the number of values in JSON that clients send. Each takes a hundred bytes of memory and more when it is decoded, and may be
// two bytes in a request: without a limit, a request of the largest size takes gigabytes, and minutes that nothing interrupts.
package jsonsize

// Most is the largest number of values. Requests have some hundred.
const Most = 10_000

// Check reports whether data has no more than [Most] values. It does not look whether it is JSON, and nothing that is takes more memory than that.
func Check(data []byte) bool {
	n, text := 1, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == ',' || c == '[' || c == '{':
			if n++; n > Most {
				return false
			}
		}
	}
	return true
}
