package client

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFrom(t *testing.T) {
	assert.Empty(t, From(context.Background()))
	assert.Equal(t, "key 2", From(With(With(context.Background(), "key 1"), "key 2")))
}
