package main

import "time"

const (
	commitAfter = 30 * time.Second
	slots       = 32
)

// Read states to commit, by the second in which they are due: a wheel with a slot a second. As all wait
// equally long, no heap of timers is needed.
type schedule struct {
	slots [slots][]*readState
	// The first second that has not been taken.
	next int64
}

func (s *schedule) start(now time.Time) {
	s.next = now.Unix()
}

func (s *schedule) add(state *readState, now time.Time) {
	slot := now.Add(commitAfter).Unix() % slots
	s.slots[slot] = append(s.slots[slot], state)
}

// Takes the slots of the seconds that are over.
func (s *schedule) take(now time.Time) [][]*readState {
	var due [][]*readState
	for ; s.next < now.Unix(); s.next++ {
		slot := s.next % slots
		if len(s.slots[slot]) > 0 {
			due = append(due, s.slots[slot])
			s.slots[slot] = nil
		}
	}
	return due
}
