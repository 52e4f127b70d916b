"""How every report was made, in sentences."""

METHODS = (
    "Every model trains on the same class-stratified, nested subsets (chains); a chain is the random unit.",
    "Recipes and checkpoints are selected on validation images held out once; the test set is read once per run.",
    "The verdict comes from D(n) = log error(b) - log error(a), paired by chain, with a simultaneous 95% band over the"
    " measured sizes: a model leads where the whole band is on its side, and a change of lead is a crossover.",
    "N* is where the mean of D, interpolated in log n, changes sign; its confidence set, where the band contains zero.",
    "Data-equivalence is how many times the images of a model b needs for the error of a; its interval is for one"
    " size.",
    "With few chains an interval is wide and rests on a t distribution; it does not speak of other recipes or budgets.",
)
