package main

import "time"

// Many more than cores, so that two connections seldom want the same lock.
const partitions = 64

// All read states in memory, by user over partitions.
type cache struct {
	partitions [partitions]*partition
}

func newCache(capacity int, commits *commitLog) (*cache, error) {
	c := &cache{}
	for i := range c.partitions {
		p, err := newPartition((capacity+partitions-1)/partitions, commits)
		if err != nil {
			return nil, err
		}
		c.partitions[i] = p
	}
	return c, nil
}

// Fibonacci hashing: snowflakes differ in any of their bits.
func (c *cache) partition(user uint64) *partition {
	return c.partitions[user*0x9E3779B97F4A7C15>>32%partitions]
}

// Commits what is due, one partition after the other and each of them once a second.
func (c *cache) commitForever() {
	ticker := time.NewTicker(time.Second / partitions)
	for {
		for _, p := range c.partitions {
			<-ticker.C
			p.commitDue(time.Now())
		}
	}
}
