// Package client carries the identity of a request's client in its context: package serve knows keys and addresses, and the handlers of
// the interfaces pass the identity to the engine, in whose queue clients take turns.
package client

import "context"

type key struct{}

// With returns a context with a client's identity, which is never a secret: "key 2", "127.0.0.1".
func With(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, key{}, name)
}

// From returns the identity in a context; "" if it has none.
func From(ctx context.Context) string {
	name, _ := ctx.Value(key{}).(string)
	return name
}
