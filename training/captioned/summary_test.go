package captioned

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSummaryString(t *testing.T) {
	s := Summary{
		Images: 3, Samples: 6, Regularization: 1, Uncaptioned: 2, ClassTokens: 1, Corrupt: []error{errors.New("x")}, LeftOut: map[string]int{".heic": 4},
		Buckets: []BucketCount{{64, 32, 1, 2}, {64, 64, 2, 4}},
	}
	lines := strings.Split(s.String(), "\n")
	assert.Len(t, lines, 6)
	for i, part := range []string{"6 samples", "2 without", "64×32: 1 image, 2 samples", "64×64: 2 images", "1 corrupt", "4 .heic"} {
		assert.Contains(t, lines[i], part)
	}
	for range 14 {
		s.Buckets = append(s.Buckets, BucketCount{96, 32, 1, 1})
	}
	assert.Len(t, strings.Split(s.String(), "\n"), 7, "16 buckets are two lines")
}
