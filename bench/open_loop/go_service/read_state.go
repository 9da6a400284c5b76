package main

// What a read state is of.
type key struct {
	user, channel uint64
}

// How far a user has read a channel. It lies behind a pointer and changes in place.
type readState struct {
	key
	lastMessage uint64
	mentions    uint32
	// Whether it has changed since it was committed, and so waits in a schedule.
	dirty bool
}

// The user has read the channel up to the message. Says whether anything changed.
func (s *readState) ack(message uint64) bool {
	if message <= s.lastMessage {
		return false
	}
	s.lastMessage = message
	s.mentions = 0
	return true
}

// The message mentions the user. Says whether anything changed.
func (s *readState) increment(message uint64) bool {
	if message <= s.lastMessage {
		return false
	}
	s.mentions++
	return true
}
