package gateway

import "sync"

// locks are mutexes by name. The zero value is ready.
type locks struct {
	mu    sync.Mutex
	names map[string]*named
}

type named struct {
	sync.Mutex
	wanted int // by how many, the holder included
}

// lock waits for the name, which is given free by calling the result.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.names == nil {
		l.names = map[string]*named{}
	}
	n := l.names[name]
	if n == nil {
		n = &named{}
		l.names[name] = n
	}
	n.wanted++
	l.mu.Unlock()
	n.Lock()
	return func() {
		n.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.wanted--; n.wanted == 0 {
			delete(l.names, name)
		}
	}
}
