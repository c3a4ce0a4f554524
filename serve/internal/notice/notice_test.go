package notice

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAdd(t *testing.T) {
	h := http.Header{}
	Add(h, nil)
	assert.Empty(t, h)
	Add(h, []string{"the scale 7 has no effect on 32×32", "a…\r\nb: ü"})
	assert.Equal(t, http.Header{Header: {"the scale 7 has no effect on 32x32", "a...??b: ?"}}, h)
}
