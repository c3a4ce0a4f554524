package engine

import "github.com/onestep-go/onestep/serve/internal/turns"

// queue holds the requests that wait, of which clients take turns.
type queue struct{ turns.Lines[*job] }

// longest returns the last request of the client with the most that wait, if these are at least two more than those of the given client; nil: there is
// none. Requests that have run in part are left alone.
func (q *queue) longest(than string) (last *job) {
	own, most := 0, 0
	for client, jobs := range q.Clients() {
		n, end := 0, (*job)(nil)
		for _, j := range jobs {
			if !j.begun && !j.r.loads {
				n, end = n+1, j
			}
		}
		if client == than {
			own = n
		} else if n > most {
			most, last = n, end
		}
	}
	if most < own+2 {
		return nil
	}
	return last
}
