package featurestore.flink;

import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.TypeInference;

/** What chooses among values of one type, whichever it is. */
public final class Choices {
    private Choices() {}

    private static Object best(Object[] values, int sign) {
        Object best = null;
        for (Object value : values) {
            if (value != null && (best == null || Order.compare(value, best) * sign > 0)) {
                best = value;
            }
        }
        return best;
    }

    private static TypeInference first() {
        return TypeInference.newBuilder()
                .inputTypeStrategy(InputTypeStrategies.varyingSequence(InputTypeStrategies.ANY))
                .outputTypeStrategy(call -> Optional.of(call.getArgumentDataTypes().get(0).nullable()))
                .build();
    }

    /** The least, nulls skipped. */
    public static class Least extends ScalarFunction {
        public Object eval(Object... values) {
            return best(values, -1);
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return first();
        }
    }

    /** The greatest, nulls skipped. */
    public static class Greatest extends ScalarFunction {
        public Object eval(Object... values) {
            return best(values, 1);
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return first();
        }
    }

    /** The first that is not null. The planner's own COALESCE loses its way when it drops what is never null. */
    public static class Coalesce extends ScalarFunction {
        public Object eval(Object... values) {
            for (Object value : values) {
                if (value != null) {
                    return value;
                }
            }
            return null;
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return first();
        }
    }

    /** Negative, zero or positive; null if either is. */
    public static class Compare extends ScalarFunction {
        public Integer eval(Object a, Object b) {
            return a == null || b == null ? null : (Integer) Order.compare(a, b);
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return TypeInference.newBuilder()
                    .inputTypeStrategy(InputTypeStrategies.sequence(InputTypeStrategies.ANY, InputTypeStrategies.ANY))
                    .outputTypeStrategy(call -> Optional.of(DataTypes.INT()))
                    .build();
        }
    }
}
