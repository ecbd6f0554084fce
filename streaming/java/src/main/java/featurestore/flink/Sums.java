package featurestore.flink;

import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.types.Row;

/** Sums: of whole numbers in 128 bits, of doubles with what rounding lost. */
public final class Sums {
    private Sums() {}

    /** 128 bits in two limbs, {@code lo} unsigned. */
    public static class IntState {
        public long n;
        public long lo;
        public long hi;

        void add(long otherLo, long otherHi, long count) {
            long sum = lo + otherLo;
            hi += otherHi + (Long.compareUnsigned(sum, lo) < 0 ? 1 : 0);
            lo = sum;
            n += count;
        }
    }

    @FunctionHint(output = @DataTypeHint("ROW<lo BIGINT, hi BIGINT>"))
    public static class SumInt extends AggregateFunction<Row, IntState> {
        @Override
        public IntState createAccumulator() {
            return new IntState();
        }

        public void accumulate(IntState state, Long x) {
            if (x != null) {
                state.add(x, x >> 63, 1);
            }
        }

        public void merge(IntState state, Iterable<IntState> others) {
            for (IntState other : others) {
                state.add(other.lo, other.hi, other.n);
            }
        }

        @Override
        public Row getValue(IntState state) {
            return state.n == 0 ? null : Row.of(state.lo, state.hi);
        }
    }

    /** A sum and its compensation. Neumaier (1974). */
    public static class DoubleState {
        public long n;
        public double s;
        public double c;

        void add(double x) {
            double sum = s + x;
            if (Double.isFinite(sum)) {
                c += Math.abs(s) >= Math.abs(x) ? (s - sum) + x : (x - sum) + s;
            }
            s = sum;
        }
    }

    @FunctionHint(output = @DataTypeHint("ROW<s DOUBLE, c DOUBLE>"))
    public static class SumDouble extends AggregateFunction<Row, DoubleState> {
        @Override
        public DoubleState createAccumulator() {
            return new DoubleState();
        }

        public void accumulate(DoubleState state, Double x) {
            if (x != null) {
                state.add(x);
                state.n++;
            }
        }

        public void merge(DoubleState state, Iterable<DoubleState> others) {
            for (DoubleState other : others) {
                state.add(other.s);
                state.c += other.c;
                state.n += other.n;
            }
        }

        @Override
        public Row getValue(DoubleState state) {
            return state.n == 0 ? null : Row.of(state.s, state.c);
        }
    }
}
