package models

// Inputs lists a network's conditioning inputs and its dropout probability, as its configuration has them.
type Inputs struct {
	Classes  int     // number of classes; 0: unconditional
	Null     bool    // the label Classes is the null class, which classifier-free guidance needs
	Until    bool    // the network takes the end of a jump: Cond.Until
	Guidance bool    // the network takes a guidance scale: Cond.Guidance
	Dropout  float64 // dropout probability, applied if Cond.Dropout is set
}

// And returns in with the conditioning inputs of more added: the end of a jump, a guidance scale, and the null class. Classes and Dropout
// are unchanged.
func (in Inputs) And(more Inputs) Inputs {
	in.Null, in.Until, in.Guidance = in.Null || more.Null, in.Until || more.Until, in.Guidance || more.Guidance
	return in
}

// NullClass returns the label of the null class, or -1 if there is none.
func (in Inputs) NullClass() int {
	if in.Null {
		return in.Classes
	}
	return -1
}
