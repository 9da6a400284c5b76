module read_states_bench/go_service

go 1.19

require github.com/hashicorp/golang-lru/v2 v2.0.7
