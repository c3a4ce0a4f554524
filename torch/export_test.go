package torch

// ForgetOps makes every typed wrapper look its operator up again at its next call.
func ForgetOps() {
	for _, o := range wrapped {
		o.found.Store(nil)
	}
}

// UnusedOps lists the operators of typed wrappers that were not called since ForgetOps.
func UnusedOps() (names []string) {
	for _, o := range wrapped {
		if o.found.Load() == nil {
			names = append(names, o.String())
		}
	}
	return names
}
