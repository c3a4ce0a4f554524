package number

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Numbers with few digits stay as they are; of others four digits are left, and of large ones the whole part.
func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", -1: "-1", 0.0001: "0.0001", 0.002: "0.002", 7.5: "7.5", 0.123456: "0.123456", 1e-9: "1e-09", 80: "80",
		0.1 + 0.2: "0.3", 1.0 / 3: "0.3333", -2.0 / 3: "-0.6667", 0.0999755859375: "0.09998", 79.99999237060547: "80", 0.00012345678: "0.0001235",
		123456.789: "123457", 1234567: "1234567", 1e300: "1e+300", 1.23456789e20: "1.235e+20", math.Inf(1): "+Inf",
	} {
		require.Equal(t, want, Short(v))
	}
	require.Equal(t, "NaN", Short(math.NaN()))
}

func TestShape(t *testing.T) { require.Equal(t, "3×32×32", Shape([]int{3, 32, 32})) }
