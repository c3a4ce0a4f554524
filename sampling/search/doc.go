// Package search finds the noise levels at which few-step sampling from a consistency function is best, by any metric of its samples.
//
// Song et al. 2023 choose the levels of multistep sampling greedily: the second level by a ternary search for the least FID with two steps, then
// the third one with three, and so on; they publish the levels that they found for two steps. [Levels] does the same by golden-section search,
// begins each with a few levels across the whole range, since a metric of few samples need not have one minimum only, and then searches each
// level again with the later ones at their places. The levels that sampling has by default are among those tried, so that what is found is no
// worse on the samples of the search. It may be on others: measure it again with other seeds.
//
// All trials have the same noise, sample by sample and step by step (common random numbers), so that they differ by the levels alone. The
// results of the steps before the level that is searched are kept: a trial costs the steps from there on, one evaluation of the function for
// each sample in a search for the last level. They take the memory of one copy of all samples.
package search
