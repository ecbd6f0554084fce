package featurestore.flink;

import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.admin.Admin;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.admin.NewTopic;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.errors.TopicExistsException;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.utils.Utils;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.catalog.Column;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.sink.SinkV2Provider;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableSinkFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.types.RowKind;

/**
 * The connector {@code fs-tiles}: whole tiles of one level, or newest rows, to a topic that a view's levels share.
 *
 * <p>At least once: what was taken before a checkpoint is in the topic when it is done. Partitioned by entity alone, which
 * Flink's own upsert-kafka cannot where the tile is part of the key.
 */
public final class TilesSinkFactory implements DynamicTableSinkFactory {
    static final String PROPERTIES = "properties.";

    static final ConfigOption<String> TOPIC = ConfigOptions.key("topic").stringType().noDefaultValue();
    static final ConfigOption<Integer> PARTITIONS = ConfigOptions.key("topic.partitions")
            .intType()
            .noDefaultValue()
            .withDescription("How many partitions the topic gets where it is not there yet; else as many as the broker gives.");
    static final ConfigOption<Integer> LEVEL = ConfigOptions.key("level")
            .intType()
            .noDefaultValue()
            .withDescription("The position of the tiles' level among those of the view; 255 for newest rows.");
    static final ConfigOption<Integer> KEYS = ConfigOptions.key("keys")
            .intType()
            .noDefaultValue()
            .withDescription("How many first columns say which entity it is.");
    static final ConfigOption<Integer> EPOCH = ConfigOptions.key("epoch")
            .intType()
            .noDefaultValue()
            .withDescription("The number of the job's fresh start; a job that goes on from a checkpoint keeps it.");

    @Override
    public String factoryIdentifier() {
        return "fs-tiles";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(TOPIC, LEVEL, KEYS, EPOCH);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of(PARTITIONS);
    }

    @Override
    public DynamicTableSink createDynamicTableSink(Context context) {
        FactoryUtil.TableFactoryHelper helper = FactoryUtil.createTableFactoryHelper(this, context);
        helper.validateExcept(PROPERTIES);
        Properties properties = new Properties();
        context.getCatalogTable().getOptions().forEach((name, value) -> {
            if (name.startsWith(PROPERTIES)) {
                properties.setProperty(name.substring(PROPERTIES.length()), value);
            }
        });
        if (!properties.containsKey("bootstrap.servers")) {
            throw new ValidationException("fs-tiles needs 'properties.bootstrap.servers'");
        }
        List<LogicalType> types = context.getCatalogTable().getResolvedSchema().getColumns().stream()
                .filter(Column::isPhysical)
                .map(column -> column.getDataType().getLogicalType())
                .toList();
        var options = helper.getOptions();
        try {
            TileRecord record = new TileRecord(types, options.get(LEVEL), options.get(KEYS), options.get(EPOCH));
            return new Sink(record, options.get(TOPIC), options.getOptional(PARTITIONS), properties);
        } catch (IllegalArgumentException e) {
            throw new ValidationException("fs-tiles cannot write such a table: " + e.getMessage(), e);
        }
    }

    private record Sink(TileRecord record, String topic, Optional<Integer> partitions, Properties properties)
            implements DynamicTableSink {
        /** No deletes: an entity's tiles go when the topic forgets them. */
        @Override
        public ChangelogMode getChangelogMode(ChangelogMode requested) {
            return ChangelogMode.newBuilder()
                    .addContainedKind(RowKind.INSERT)
                    .addContainedKind(RowKind.UPDATE_AFTER)
                    .build();
        }

        @Override
        public SinkRuntimeProvider getSinkRuntimeProvider(Context context) {
            return SinkV2Provider.of(KafkaSink.<RowData>builder()
                    .setKafkaProducerConfig(properties)
                    .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                    .setRecordSerializer(new Serializer(record, topic, partitions.orElse(null), properties))
                    .build());
        }

        @Override
        public DynamicTableSink copy() {
            return new Sink(record, topic, partitions, properties);
        }

        @Override
        public String asSummaryString() {
            return "fs-tiles " + topic;
        }
    }

    /** How many partitions there are is asked once, at the start: an entity stays where it is while a job runs. */
    static final class Serializer implements KafkaRecordSerializationSchema<RowData> {
        private final TileRecord record;
        private final String topic;
        private final Integer wanted;
        private final Properties properties;
        private transient int partitions;

        Serializer(TileRecord record, String topic, Integer wanted, Properties properties) {
            this.record = record;
            this.topic = topic;
            this.wanted = wanted;
            this.properties = properties;
        }

        @Override
        public void open(SerializationSchema.InitializationContext context, KafkaSinkContext sink) throws Exception {
            create();
            partitions = sink.getPartitionsForTopic(topic).length;
        }

        /** The topic, if nobody made it. A broker that does not let us leaves it to whoever may. */
        private void create() throws InterruptedException {
            Map<String, Object> given = new HashMap<>();
            properties.stringPropertyNames().forEach(name -> given.put(name, properties.getProperty(name)));
            NewTopic made = new NewTopic(topic, Optional.ofNullable(wanted), Optional.empty())
                    .configs(Map.of("cleanup.policy", "compact,delete"));
            try (Admin admin = Admin.create(given)) {
                if (!admin.listTopics().names().get().contains(topic)) {
                    admin.createTopics(Collections.singleton(made)).all().get();
                }
            } catch (ExecutionException e) {
                if (!(e.getCause() instanceof TopicExistsException)) {
                    throw new IllegalStateException("topic " + topic + " is not there and was not made: " + e.getCause().getMessage(), e);
                }
            }
        }

        @Override
        public ProducerRecord<byte[], byte[]> serialize(RowData row, KafkaSinkContext sink, Long timestamp) {
            if (row.getRowKind() == RowKind.DELETE) {
                throw new IllegalStateException("a tile is replaced, never taken back");
            }
            byte[] key = record.key(row);
            return new ProducerRecord<>(topic, partition(TileRecord.entity(key), partitions), key, record.value(row));
        }
    }

    /** As Kafka's own partitioner would choose for a record of this key. */
    static int partition(byte[] entity, int partitions) {
        return Utils.toPositive(Utils.murmur2(entity)) % partitions;
    }
}
