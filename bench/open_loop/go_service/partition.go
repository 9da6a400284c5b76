package main

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Read states committed before the lock is given to others again.
const commitsAtOnce = 256

// An LRU of read states behind a lock.
type partition struct {
	mutex    sync.Mutex
	states   *simplelru.LRU[key, *readState]
	schedule schedule
	commits  *commitLog
}

func newPartition(capacity int, commits *commitLog) (*partition, error) {
	p := &partition{commits: commits}
	p.schedule.start(time.Now())
	states, err := simplelru.NewLRU(capacity, func(_ key, s *readState) { p.commit(s) })
	p.states = states
	return p, err
}

func (p *partition) ack(k key, message uint64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if s := p.find(k); s.ack(message) {
		p.changed(s)
	}
}

func (p *partition) increment(k key, message uint64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if s := p.find(k); s.increment(message) {
		p.changed(s)
	}
}

func (p *partition) get(k key) (lastMessage uint64, mentions uint32) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	s := p.find(k)
	return s.lastMessage, s.mentions
}

// There is no database: a read state that is not in memory comes at once, and as a new one. The
// service that this stands for waits here.
func (p *partition) find(k key) *readState {
	if s, ok := p.states.Get(k); ok {
		return s
	}
	s := &readState{key: k}
	p.states.Add(k, s)
	return s
}

// The first change since the last commit schedules the next.
func (p *partition) changed(s *readState) {
	if !s.dirty {
		s.dirty = true
		p.schedule.add(s, time.Now())
	}
}

// What was evicted has been committed then, and what was committed may still be in a schedule.
func (p *partition) commit(s *readState) {
	if s.dirty {
		s.dirty = false
		p.commits.append(s)
	}
}

func (p *partition) commitDue(now time.Time) {
	p.mutex.Lock()
	due := p.schedule.take(now)
	p.mutex.Unlock()
	for _, states := range due {
		for len(states) > 0 {
			some := states
			if len(some) > commitsAtOnce {
				some = some[:commitsAtOnce]
			}
			states = states[len(some):]
			p.mutex.Lock()
			for _, s := range some {
				p.commit(s)
			}
			p.mutex.Unlock()
		}
	}
}
