package featurestore.flink;

import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.types.Row;

/**
 * Count, mean in two doubles and central moments.
 *
 * <p>Kept as sums of powers of differences from the first value, each in two doubles. About 0, or in one double, a variance
 * near 1e-6 of values near 1e9 has no right digit; so the order in which events come hardly shows either.
 */
public final class Moments {
    private Moments() {}

    public static class State {
        public long n;
        public double shift;
        public double[] hi = new double[4];
        public double[] lo = new double[4];

        private Pair power(int k) {
            return new Pair(hi[k - 1], lo[k - 1]);
        }

        private void set(int k, Pair sum) {
            hi[k - 1] = sum.hi();
            lo[k - 1] = sum.lo();
        }

        void add(double x, int order) {
            if (n++ == 0) {
                shift = x;
                return;
            }
            Pair difference = Pair.sum(x, -shift);
            Pair product = difference;
            for (int k = 1; k <= order; k++) {
                set(k, power(k).plus(product));
                product = product.times(difference);
            }
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

        /** n, mean, low, m2, and m3 and m4 as far as the order goes. */
        Row finished(int order) {
            Row row = new Row(order + 2);
            row.setField(0, n);
            if (n == 0) {
                for (int i = 1; i < order + 2; i++) {
                    row.setField(i, 0.0);
                }
                return row;
            }
            Pair delta = power(1).over(n);
            Pair mean = Pair.of(shift).plus(delta);
            row.setField(1, mean.hi());
            row.setField(2, mean.lo());
            Pair m2 = power(2).minus(power(1).times(delta));
            row.setField(3, Math.max(m2.value(), 0.0));
            if (order > 2) {
                Pair inner = power(2).times(3).minus(delta.times(power(1)).times(2));
                row.setField(4, power(3).minus(delta.times(inner)).value() + 0.0);
            }
            if (order > 3) {
                Pair inner = power(2).times(6).minus(delta.times(power(1)).times(3));
                Pair outer = power(3).times(4).minus(delta.times(inner));
                row.setField(5, Math.max(power(4).minus(delta.times(outer)).value(), 0.0));
            }
            return row;
        }
    }

    /** What the orders share. */
    public abstract static class Base extends AggregateFunction<Row, State> {
        private final int order;

        Base(int order) {
            this.order = order;
        }

        @Override
        public State createAccumulator() {
            return new State();
        }

        public void accumulate(State state, Double x) {
            if (x != null) {
                state.add(x, order);
            }
        }

        public void merge(State state, Iterable<State> others) {
            for (State other : others) {
                state.merge(other, order);
            }
        }

        @Override
        public Row getValue(State state) {
            return state.finished(order);
        }
    }

    @FunctionHint(output = @DataTypeHint("ROW<n BIGINT, mean DOUBLE, low DOUBLE, m2 DOUBLE>"))
    public static class Moments2 extends Base {
        public Moments2() {
            super(2);
        }
    }

    @FunctionHint(output = @DataTypeHint("ROW<n BIGINT, mean DOUBLE, low DOUBLE, m2 DOUBLE, m3 DOUBLE>"))
    public static class Moments3 extends Base {
        public Moments3() {
            super(3);
        }
    }

    @FunctionHint(output = @DataTypeHint("ROW<n BIGINT, mean DOUBLE, low DOUBLE, m2 DOUBLE, m3 DOUBLE, m4 DOUBLE>"))
    public static class Moments4 extends Base {
        public Moments4() {
            super(4);
        }
    }
}
