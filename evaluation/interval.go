package evaluation

import (
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Interval is a 95 % confidence interval.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// groups is the number of groups of the jackknife, and quantile the 97.5 % quantile of Student's t distribution with groups-1 degrees of
// freedom.
const (
	groups   = 10
	quantile = 2.262157
)

// jackknife collects the features of images in groups, to estimate how much the Fréchet distance varies with the images that happened to be
// drawn.
//
// It leaves out one group at a time (delete-a-group jackknife, Kott 2001): with F_g the distance without group g and G groups, the variance
// is (G-1)/G·Σ(F_g - mean F)². A bootstrap would not do: a resample has fewer different images than the sample, and the distance grows when
// there are fewer, so that all resamples lie above the estimate. Here all have the same number of images, and the bias cancels.
type jackknife [groups]*Collector

func newJackknife() (j jackknife) {
	for i := range j {
		j[i] = NewCollector(0)
	}
	return j
}

// add adds the features [B, D] of images first, first+1, ...: image i belongs to group i modulo the number of groups.
func (j jackknife) add(s *torch.Scope, first int, x *torch.Tensor) error {
	for g := range j {
		var places []int64
		for i := range x.Dim(0) {
			if (first+i)%groups == g {
				places = append(places, int64(i))
			}
		}
		if places == nil {
			continue
		}
		if err := j[g].Add(x.IndexSelect(s, 0, torch.FromSlice(s, places))); err != nil {
			return err
		}
	}
	return nil
}

// interval returns the interval around a distance from the origin to all images, nil for fewer than two images a group.
func (j jackknife) interval(from origin, all Moments, distance float64) (*Interval, error) {
	if all.N < 2*groups {
		return nil, nil
	}
	var sum, squares float64
	for _, c := range j {
		m, err := c.Moments()
		if err != nil {
			return nil, err
		}
		d, err := from.distance(all.without(m))
		if err != nil {
			return nil, err
		}
		d -= distance // so that the difference of the sums below has its digits
		sum, squares = sum+d, squares+d*d
	}
	half := quantile * math.Sqrt(max(0, squares-sum*sum/groups)*(groups-1)/groups)
	return &Interval{max(0, distance-half), distance + half}, nil
}

func (j jackknife) close() {
	for _, c := range j {
		c.Close()
	}
}

// without returns the moments of the images that are not in a part of them. At least two have to be left.
func (m Moments) without(part Moments) Moments {
	n, d := m.N-part.N, len(m.Mean)
	out := Moments{N: n, Mean: make([]float64, d), Cov: make([]float64, d*d)}
	diff := make([]float64, d)
	for i := range d {
		out.Mean[i] = m.Mean[i] + (m.Mean[i]-part.Mean[i])*float64(part.N)/float64(n)
		diff[i] = out.Mean[i] - part.Mean[i]
	}
	factor := float64(n) * float64(part.N) / float64(m.N)
	for i := range d {
		for k := range d {
			at := i*d + k
			out.Cov[at] = (float64(m.N-1)*m.Cov[at] - float64(part.N-1)*part.Cov[at] - factor*diff[i]*diff[k]) / float64(n-1)
		}
	}
	return out
}
