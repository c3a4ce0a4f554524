package captioned

import "image"

// Items returns the ways in which an image is used, apart from its captions: as it is and, if its subset flips, mirrored. They have no
// position and no caption. fixed is false if random crops make them too many to list.
func (s *Set) Items(i int) (items []Item, fixed bool) {
	x := &s.images[i]
	sub := &s.subsets[x.Subset]
	at := s.buckets[x.bucket].at
	room := x.scaled.Sub(at)
	if sub.RandomCrop && room != (image.Point{}) {
		return nil, false
	}
	corner := room.Div(2)
	it := Item{Image: i, Width: at.X, Height: at.Y, Scaled: x.scaled, Crop: image.Rectangle{corner, corner.Add(at)}, Weight: 1}
	if sub.Regularization {
		it.Weight = s.prior
	}
	items = append(items, it)
	if sub.Flip {
		it.Flip = true
		items = append(items, it)
	}
	return items, true
}

// Captions returns the captions that an image is used with, as they are after their changes, but for an empty one in place of each of them
// (caption dropout). fixed is false if shuffling, dropout of parts or wildcards make them too many to list.
func (s *Set) Captions(i int) (texts []string, fixed bool) {
	x := &s.images[i]
	sub := s.subsets[x.Subset].Settings // a copy
	if sub.Shuffle || sub.PartDropout > 0 || sub.Wildcards {
		return nil, false
	}
	sub.Dropout, sub.DropoutEvery = 0, 0
	for n := range x.Captions {
		texts = append(texts, sub.caption(x.Captions[n:n+1], 0, draws{}))
	}
	return texts, true
}
