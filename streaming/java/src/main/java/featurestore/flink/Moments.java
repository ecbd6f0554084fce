package featurestore.flink;

import java.util.Arrays;


/**
 * Count, mean in two doubles and central moments.
 *
 * <p>Kept as sums of powers of differences from the first value, each in two doubles. About 0, or in one double, a variance
 * near 1e-6 of values near 1e9 has no right digit; so the order in which events come hardly shows either.
 */
final class Moments {
    private Moments() {}

    static final class State {
        long n;
        double shift;
        final double[] hi = new double[4];
        final double[] lo = new double[4];

        private Pair power(int k) {
            return new Pair(hi[k - 1], lo[k - 1]);
        }

        private void set(int k, Pair sum) {
            hi[k - 1] = sum.hi();
            lo[k - 1] = sum.lo();
        }

        /** The other's sums, moved from its shift to ours by the binomial theorem. */
        void merge(State other, int order) {
            if (other.n == 0) {
                return;
            }
            if (n == 0) {
                shift = other.shift;
            }
            Pair moved = Pair.sum(other.shift, -shift);
            for (int k = order; k >= 1; k--) {
                Pair sum = Pair.ZERO;
                Pair factor = Pair.of(1);
                double choose = 1;
                for (int j = k; j >= 0; j--) {
                    Pair theirs = j == 0 ? Pair.of(other.n) : other.power(j);
                    sum = sum.plus(theirs.times(factor).times(choose));
                    factor = factor.times(moved);
                    choose = choose * j / (k - j + 1);
                }
                set(k, power(k).plus(sum));
            }
            n += other.n;
        }

        /** n, mean, low, m2, and m3 and m4 as far as the order goes, put into a row from {@code at} on. */
        void finish(int order, Object[] row, int at) {
            row[at] = n;
            if (n == 0) {
                Arrays.fill(row, at + 1, at + 2 + order, 0.0);
                return;
            }
            Pair delta = power(1).over(n);
            Pair mean = Pair.of(shift).plus(delta);
            row[at + 1] = mean.hi();
            row[at + 2] = mean.lo();
            Pair m2 = power(2).minus(power(1).times(delta));
            row[at + 3] = Math.max(m2.value(), 0.0);
            if (order > 2) {
                Pair inner = power(2).times(3).minus(delta.times(power(1)).times(2));
                row[at + 4] = power(3).minus(delta.times(inner)).value() + 0.0;
            }
            if (order > 3) {
                Pair inner = power(2).times(6).minus(delta.times(power(1)).times(3));
                Pair outer = power(3).times(4).minus(delta.times(inner));
                row[at + 5] = Math.max(power(4).minus(delta.times(outer)).value(), 0.0);
            }
        }
    }
}
